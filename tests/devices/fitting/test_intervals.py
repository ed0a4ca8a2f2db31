"""Intervals contain the truth as often as they say, with few devices, and where the law is wrong."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from phasegrad.devices.fitting.intervals import intervals
from phasegrad.devices.fitting.likelihood import LogLikelihood, Maximum, maximise, third_derivatives

REPEATS = 120
LEAST = 0.95 - 3.0 * math.sqrt(0.95 * 0.05 / REPEATS)
"""Three standard errors of a coverage of 95 % below it."""


def normal_law(values: Tensor) -> LogLikelihood:
    """Independent normal values; the parameters are the mean and the logarithm of the standard deviation."""

    def likelihood(theta: Tensor) -> Tensor:
        mean, log_sd = theta[:, :1], theta[:, 1:]
        return -0.5 * ((values - mean) / log_sd.exp()).square() - log_sd

    return likelihood


def unit_law(values: Tensor) -> LogLikelihood:
    """Normal values whose standard deviation is thought to be 1; the parameter is the mean."""
    return lambda theta: -0.5 * (values - theta).square()


def ends(likelihood: LogLikelihood, parameters: int, devices: int, seed: int) -> tuple[Tensor, Tensor]:
    maximum = maximise(likelihood, torch.zeros(parameters).double(), devices)
    assert maximum.converged
    return intervals(likelihood, maximum, devices, 0.95, 200, seed)


def test_a_standard_deviation_of_few_devices_lies_within_its_interval() -> None:
    """With 15 devices, a bootstrap alone contains the standard deviation in about 83 % of all measurements."""
    generator = torch.Generator().manual_seed(0)
    inside = torch.zeros(2)
    for seed in range(REPEATS):
        values = torch.randn(15, generator=generator, dtype=torch.float64)
        low, high = ends(normal_law(values), 2, 15, seed)
        inside += (low <= 0.0) & (high >= 0.0)
    assert bool((inside / REPEATS >= LEAST).all())
    assert bool((inside < REPEATS).all())


def test_the_bootstrap_decides_where_the_law_is_wrong() -> None:
    """The law thinks of a standard deviation of 1 where it is 3, so its own interval is a third of what is needed."""
    generator = torch.Generator().manual_seed(0)
    inside = 0
    for seed in range(REPEATS):
        low, high = ends(unit_law(3.0 * torch.randn(30, generator=generator, dtype=torch.float64)), 1, 30, seed)
        inside += int(low <= 0.0 <= high)
    assert LEAST <= inside / REPEATS < 1.0


@pytest.mark.parametrize("parameters", [1, 2, 3, 5])
def test_third_derivatives_are_those_of_a_cubic_law(parameters: int) -> None:
    generator = torch.Generator().manual_seed(0)
    form = torch.randn(parameters, parameters, parameters, generator=generator, dtype=torch.float64)
    form = form + form.transpose(0, 1)
    form = (form + form.transpose(0, 2) + form.transpose(1, 2)) / 6.0

    def likelihood(theta: Tensor) -> Tensor:
        cubic = torch.einsum("ijk,bi,bj,bk->b", form, theta, theta, theta) / 6.0
        return torch.stack((cubic, -theta.square().sum(1)), 1)

    zero = torch.zeros(parameters).double()
    information = torch.diag_embed(torch.ones(2, parameters).double())
    maximum = Maximum(zero, 0.0, torch.zeros(2, parameters).double(), information)
    torch.testing.assert_close(third_derivatives(likelihood, maximum, 2), form, rtol=1e-9, atol=1e-9)
