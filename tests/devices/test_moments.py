from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from phasegrad.devices import PCM, Telegraph, hermes_one, joshi_2020, nandakumar_2018_device
from phasegrad.testing import BOUND

_N = 40_000
_DEVICES = {
    "joshi": joshi_2020(),
    "hermes": hermes_one(),
    "read_sd": nandakumar_2018_device(),
    "g_min": dataclasses.replace(joshi_2020(), g_min=1e-6),
}


@pytest.mark.parametrize("device", _DEVICES.values(), ids=_DEVICES.keys())
def test_moments_are_those_of_samples(device: PCM) -> None:
    """Mean and variance of n reads deviate by standard errors from n and the sample's fourth moment."""
    target = device.in_window(torch.tensor([0.0, 0.02, 0.3, 0.7, 1.0]))
    ages = (0.0, 3600.0, 2.6e6)
    moments = device.conductance_moments(target, ages)
    assert moments is not None
    state = device.program(target.unsqueeze(1).expand(-1, _N).contiguous(), torch.tensor([11]), 0)
    for i, age in enumerate(ages):
        read = device.read(state, torch.tensor(age, dtype=torch.float64), torch.tensor([5]), 7).double()
        centred = read - read.mean(1, keepdim=True)
        kurtosis = centred.pow(4).mean(1) / centred.square().mean(1).square()
        of_mean = (read.mean(1) - moments.mean[i]) / (read.std(1) / math.sqrt(_N))
        of_variance = (read.var(1) / moments.variance[i] - 1.0) / ((kurtosis - 1.0) / _N).sqrt()
        assert float(of_mean.abs().max()) < BOUND
        assert float(of_variance.abs().max()) < BOUND


def test_moments_with_telegraph_noise_are_unknown() -> None:
    device = dataclasses.replace(joshi_2020(), telegraph=Telegraph(fraction=0.1, amplitude=0.05, rates=(1e-3, 1.0)))
    assert device.conductance_moments(torch.zeros(1), (0.0,)) is None
