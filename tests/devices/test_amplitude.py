"""The melt-and-quench curve against its law, and its spreads against their coefficients."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from phasegrad.devices import AmplitudeResponse, joshi_2020, melt_and_quench

CURVE = AmplitudeResponse()
N = 40_000


def after(
    current: float, curve: AmplitudeResponse = CURVE, *, devices: bool = True, cycles: bool = True
) -> torch.Tensor:
    torch.manual_seed(0)
    offset, strength, noise = torch.randn(3, N)
    fixed = (offset, strength) if devices else (torch.zeros(N), torch.zeros(N))
    return curve.conductance(torch.full((N,), current), *fixed, noise if cycles else torch.zeros(N)).double()


def test_the_median_device_follows_the_law() -> None:
    for current in (50e-6, 120e-6, 275e-6, 400e-6, 500e-6, 700e-6):
        x = min(max((current - 50e-6) / 450e-6, 0.0), 1.0)
        law = 0.1e-6 + 29.9e-6 * math.cos(0.5 * math.pi * x) ** 4
        found = after(current, devices=False, cycles=False)
        assert float((found - law).abs().max()) < 1e-11


def test_the_current_for_a_conductance_is_its_inverse() -> None:
    wanted = torch.linspace(0.2e-6, 29.9e-6, 50)
    none = torch.zeros(50)
    assert torch.allclose(CURVE.conductance(CURVE.current(wanted), none, none, none), wanted, rtol=2e-4)


@pytest.mark.parametrize("field", ["offset_sd", "cycle_sd", "set_sd"])
def test_each_spread_is_that_of_its_coefficient(field: str) -> None:
    alone = {"offset_sd": 0.0, "cycle_sd": 0.0, "set_sd": 0.0, field: 0.02 if field == "set_sd" else 2e-6}
    curve = dataclasses.replace(CURVE, **alone)
    current, step = 275e-6, 1e-8
    slope = (
        after(current + step, devices=False, cycles=False)[0] - after(current - step, devices=False, cycles=False)[0]
    )
    mean = after(current, devices=False, cycles=False)[0]
    expected = 0.02 * (mean - 0.1e-6) if field == "set_sd" else 2e-6 * abs(slope) / (2.0 * step)
    found = after(current, curve).std()
    # Standard error of a standard deviation; 3 % more for float32 slopes and the curvature within the spread.
    assert abs(float(found / expected) - 1.0) < 5.0 / math.sqrt(2.0 * N) + 0.03


def test_statistical_programming_of_the_device_is_unchanged() -> None:
    target, seed = torch.linspace(0.0, 25e-6, 100), torch.tensor([3])
    plain, device = joshi_2020().program(target, seed, 0), melt_and_quench().program(target, seed, 0)
    assert torch.equal(plain.conductance, device.conductance)
    assert torch.equal(plain.nu, device.nu)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"onset": 6e-4}, "onset = 0.0006 A; it must be below complete"),
        ({"reset_conductance": 4e-5}, "reset_conductance = 4e-05 S; it must be below set_conductance"),
        ({"offset_sd": -1.0}, "offset_sd"),
        ({"shape": 0.0}, "shape"),
    ],
)
def test_constants_that_make_no_curve_are_refused(fields: dict[str, float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        AmplitudeResponse(**fields)


def test_the_mean_of_reads_in_a_row_has_the_noise_of_one_longer_read() -> None:
    device = joshi_2020()
    averaging = device.averaging(5, 1e-6)
    assert averaging.t_read == pytest.approx(5e-6)
    assert averaging.nu_mean == device.nu_mean
