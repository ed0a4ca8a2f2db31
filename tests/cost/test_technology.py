"""Constants carry their source; what is absurd is refused by name."""

from __future__ import annotations

import dataclasses
import math

import pytest
from tests.cost.technologies import known, technology

import phasegrad as pg
from phasegrad.configuration import from_json
from phasegrad.cost import Constant, Technology, thermal_conversion_energy
from phasegrad.cost.technology import RULES


def test_a_number_becomes_a_constant_without_a_source() -> None:
    found = dataclasses.replace(Technology(adc_energy=1e-12), read_time=1e-7)
    assert found.constants["adc_energy"] == Constant(value=1e-12, source="no source", origin="given")
    assert set(found.constants) == {"adc_energy", "read_time"}


def test_constants_survive_json() -> None:
    found = technology(adc_energy=known(1e-12), adc_scaling="codes")
    assert from_json(found.to_json()) == found


def test_every_constant_has_a_unit_and_a_bound() -> None:
    constants = {f.name for f in dataclasses.fields(Technology) if "Constant" in str(f.type)}
    assert constants == set(RULES)
    assert all(rule.unit and rule.highest > 0 for rule in RULES.values())


@pytest.mark.parametrize("name", sorted(RULES))
@pytest.mark.parametrize("value", [-1e-30, math.inf])
def test_negative_and_absurd_constants_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"Technology: {name} = {value}"):
        Technology(**{name: value})


def test_a_constant_in_the_wrong_unit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"adc_energy = 0.36 J \(a paper\); it must not be negative.*check its unit"):
        Technology(adc_energy=known(0.36))


def test_the_thermal_limit_is_that_of_a_capacitor_whose_noise_is_that_of_rounding() -> None:
    bits, volts, kelvin, boltzmann = 8, 0.8, 300.0, 1.380649e-23
    capacitor = boltzmann * kelvin / ((volts / 2**bits) ** 2 / 12)
    assert thermal_conversion_energy(bits, kelvin) == pytest.approx(capacitor * volts**2)
    with pytest.raises(ValueError, match=r"adc_energy = 3e-15 J .* thermal noise at 300 K"):
        Technology(adc_energy=3e-15, adc_bits=8)
    assert Technology(adc_energy=3e-15, adc_bits=7).adc_bits == 7


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"phases": 0}, "phases = 0"),
        ({"input_coding": "time"}, "input_coding = 'time'"),
        ({"adc_scaling": "exp"}, "adc_scaling = 'exp'"),
        ({"partial_sums": "none"}, "partial_sums = 'none'"),
        ({"adc_bits": 1}, "adc_bits = 1"),
        ({"local_lanes": 0}, "local_lanes = 0"),
        ({"temperature": 0.0}, "temperature = 0.0"),
        ({"highest_energy": -1.0}, "highest_energy = -1.0"),
    ],
)
def test_other_fields_are_checked(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Technology(**fields)  # type: ignore[arg-type]


def test_a_constant_states_a_known_origin_and_a_finite_value() -> None:
    with pytest.raises(ValueError, match="origin = 'guessed'"):
        Constant(value=1.0, source="", origin="guessed")
    with pytest.raises(ValueError, match="value = inf"):
        Constant(value=math.inf, source="")
    with pytest.raises(TypeError, match="adc_energy = '1 pJ'"):
        Technology(adc_energy="1 pJ")  # type: ignore[arg-type]


def test_the_package_lists_its_names() -> None:
    assert dir(pg.cost) == sorted(pg.cost.__all__)
