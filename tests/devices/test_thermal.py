"""Conductance and drift at a temperature, against an independent implementation of the law."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from phasegrad.devices import PCM, Curve, DeviceState, Thermal, ideal_device, joshi_2020
from phasegrad.testing import SEED, ConfigurationContract, at_age

THERMAL = Thermal(reference=298.0, conductance_energy=Curve(polynomial=(0.3, -0.25)), nu_energy=0.05)
K = 8.617333262e-5
G = torch.tensor([1e-6, 5e-6, 12.5e-6, 25e-6])
NU = torch.tensor([0.1, 0.06, 0.05, 0.02])


class TestThermal(ConfigurationContract):
    def configuration(self) -> Thermal:
        return THERMAL


def hot(temperature: float, device: PCM | None = None) -> tuple[PCM, DeviceState]:
    """A device that was brought to a temperature when new."""
    device = dataclasses.replace(device or joshi_2020(), thermal=THERMAL)
    heat = device.heat()
    assert heat is not None
    heat[0] = temperature
    return device, DeviceState(G, NU, None, heat)


def boltzmann(energy: float | torch.Tensor, temperature: float) -> torch.Tensor:
    return torch.exp(torch.as_tensor(energy, dtype=torch.float64) / K * (1.0 / 298.0 - 1.0 / temperature))


@pytest.mark.parametrize("temperature", [250.0, 298.0, 350.0])
def test_conductance_is_activated_by_an_energy_of_its_state(temperature: float) -> None:
    device, state = hot(temperature)
    energy = 0.3 - 0.25 * G.double() / 25e-6
    wanted = G.double() * boltzmann(energy, temperature)
    torch.testing.assert_close(device.drift(state, at_age(0.0)).double(), wanted, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("temperature", [250.0, 350.0])
def test_drift_has_an_activated_exponent(temperature: float) -> None:
    device, state = hot(temperature)
    device.advance(state, 0.0, 1e6, SEED, 0)
    left = device.drift(state, at_age(1e6)).double() / device.drift(hot(temperature)[1], at_age(0.0)).double()
    wanted = ((1e6 + 20.0) / 20.0) ** -(NU.double() * boltzmann(0.05, temperature))
    torch.testing.assert_close(left, wanted, rtol=2e-5, atol=0.0)


def test_a_hot_day_is_remembered() -> None:
    """``d ln G = -nu exp(E b) d ln t``, interval by interval, finally read at the reference."""
    device, state = hot(298.0)
    assert state.heat is not None
    history = ((298.0, 1e3), (360.0, 9e4), (260.0, 2e5), (298.0, 1e7))
    now, loss = 0.0, torch.zeros(4, dtype=torch.float64)
    for temperature, until in history:
        state.heat[0] = temperature
        for stop in (0.5 * (now + until), until):
            device.advance(state, now, stop, SEED, 0)
            loss += NU.double() * boltzmann(0.05, temperature) * math.log((stop + 20.0) / (now + 20.0))
            now = stop
    seen = device.drift(state, at_age(now)).double()
    torch.testing.assert_close(seen, G.double() * torch.exp(-loss), rtol=2e-5, atol=0.0)


def test_at_the_reference_nothing_changes() -> None:
    device, state = hot(298.0)
    device.advance(state, 0.0, 1e5, SEED, 0)
    cold = joshi_2020()
    assert torch.equal(device.read(state, at_age(1e5), SEED, 2), cold.read(DeviceState(G, NU), at_age(1e5), SEED, 2))


def test_relative_read_noise_stays() -> None:
    device, state = hot(350.0)
    factor = device.drift(state, at_age(60.0)) / joshi_2020().drift(DeviceState(G, NU), at_age(60.0))
    wanted = joshi_2020().read(DeviceState(G, NU), at_age(60.0), SEED, 2) * factor
    torch.testing.assert_close(device.read(state, at_age(60.0), SEED, 2), wanted, rtol=1e-5, atol=0.0)


def test_a_device_that_restarts_its_drift_counts_from_there() -> None:
    """With ``t_min`` the law is ``(t / t0) ** -nu``, without drift before ``t_min``."""
    device, state = hot(350.0, dataclasses.replace(joshi_2020(), t_min=50.0))
    device.advance(state, 0.0, 30.0, SEED, 0)
    device.advance(state, 30.0, 1e5, SEED, 0)
    wanted = G.double() * boltzmann(0.3 - 0.25 * G.double() / 25e-6, 350.0)
    wanted *= (50.0 / 20.0) ** -NU.double() * (1e5 / 50.0) ** -(NU.double() * boltzmann(0.05, 350.0))
    torch.testing.assert_close(device.drift(state, at_age(1e5)).double(), wanted, rtol=2e-5, atol=0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": 27.0}, r"reference = 27.0; it must be a number in \[200, 400\]"),
        ({"nu_energy": math.nan}, "nu_energy = nan"),
        ({"lowest": 0.0}, r"lowest = 0.0; it must be a number in \(0, inf\)"),
        ({"highest": 100.0}, r"highest = 100.0; it must be a number in \[200, inf\)"),
    ],
)
def test_a_wrong_number_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(THERMAL, **change)


def test_an_energy_is_a_law() -> None:
    with pytest.raises(TypeError, match=r"Thermal: conductance_energy = 0.2 \(float\); it must be Law"):
        Thermal(conductance_energy=0.2)  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [85.0, 500.0, math.nan])
def test_a_temperature_beyond_the_laws_is_refused(temperature: Any) -> None:
    with pytest.raises(ValueError, match=r"it must be in \[200, 400\] K.*kelvin, not degrees Celsius"):
        dataclasses.replace(joshi_2020(), thermal=THERMAL).check_temperature(temperature)


def test_a_temperature_is_a_number() -> None:
    with pytest.raises(ValueError, match="temperature = '350' is a str; it must be a float"):
        dataclasses.replace(joshi_2020(), thermal=THERMAL).check_temperature("350")  # type: ignore[arg-type]


def test_a_device_without_laws_of_temperature_says_so() -> None:
    with pytest.raises(ValueError, match=r"temperature = 350.0 K, but PCM does not depend on temperature; add"):
        ideal_device().check_temperature(350.0)
