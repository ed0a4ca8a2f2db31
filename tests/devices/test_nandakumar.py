"""PHYSICS: the pulsed device of Nandakumar et al. (2018), between pulses."""

from __future__ import annotations

import math

import pytest
import torch

from phasegrad.devices import nandakumar_2018_device
from phasegrad.testing import SEED, at_age

N = 400_000


@pytest.mark.parametrize("seconds", [0.0, 10.0, 38.6])
def test_there_is_no_drift_before_t0(seconds: float) -> None:
    device = nandakumar_2018_device()
    state = device.program(torch.tensor([1e-6, 8e-6]), SEED, 0)
    assert not device.drifts_within(seconds)
    torch.testing.assert_close(device.drift(state, at_age(seconds)), state.conductance, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("seconds", [50.0, 3600.0, 3.15e7])
def test_drift_is_counted_from_the_last_pulse(seconds: float) -> None:
    device = nandakumar_2018_device(nu=0.04)
    state = device.program(torch.tensor([1e-6, 8e-6]), SEED, 0)
    assert device.drifts_within(seconds)
    left = device.drift(state, at_age(seconds)).double() / state.conductance.double()
    torch.testing.assert_close(
        left, torch.full((2,), (seconds / 38.6) ** -0.04, dtype=torch.float64), rtol=1e-5, atol=0.0
    )


@pytest.mark.parametrize("seconds", [0.0, 3.15e7])
@pytest.mark.parametrize("g", [2e-6, 5e-6, 10e-6])
def test_read_noise_goes_with_the_drifted_conductance(g: float, seconds: float) -> None:
    """``0.03 G + 0.13 uS``; at 2 uS a read is 10 standard deviations above 0, so that none is clipped."""
    device = nandakumar_2018_device()
    state = device.program(torch.full((N,), g), SEED, 0)
    mean = g * (max(seconds, 38.6) / 38.6) ** -0.04
    sd = 0.03 * mean + 0.13e-6
    seen = device.read(state, at_age(seconds), SEED, 2).double()
    assert abs(seen.mean().item() - mean) < 5.0 * sd / math.sqrt(N)
    assert abs(seen.std().item() / sd - 1.0) < 5.0 / math.sqrt(2 * N)


def test_reads_stop_at_zero() -> None:
    """At RESET, ``E max(G + sd xi, 0) = G Phi(G / sd) + sd phi(G / sd)``."""
    g, sd = 0.1e-6, 0.03 * 0.1e-6 + 0.13e-6
    device = nandakumar_2018_device()
    seen = device.read(device.program(torch.full((N,), g), SEED, 0), at_age(0.0), SEED, 2).double()
    a = g / sd
    mean = g * 0.5 * (1.0 + math.erf(a / math.sqrt(2.0))) + sd * math.exp(-a * a / 2.0) / math.sqrt(2.0 * math.pi)
    assert seen.min().item() == 0.0
    assert abs(seen.mean().item() - mean) < 5.0 * sd / math.sqrt(N)
