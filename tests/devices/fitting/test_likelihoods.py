"""Likelihoods of the laws: devices that differ, and laws with corners."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import phasegrad as pg
from phasegrad.devices.fitting.forms import ClippedLogarithm
from phasegrad.devices.fitting.likelihood import maximise
from phasegrad.devices.fitting.measurements import read_measurements
from phasegrad.devices.fitting.parts import Devices, error_of_level
from phasegrad.devices.fitting.step_forms import ConstantForm
from phasegrad.devices.fitting.step_panels import simulated_trains
from phasegrad.devices.fitting.trains import PulseData, StepModel, Variation, pulse_data

SIZE, C2C, D2D = 2.0, 0.3, 0.3


def bounded_trains(pulses: int, saturated: int = 0) -> PulseData:
    """40 devices with constant steps of 2 uS from 1 uS; 10 nominal steps reach the bound of 20 uS, some start there."""
    steps = pg.devices.ConstantSteps(size=SIZE * 1e-6, c2c=C2C, d2d=D2D)
    device = pg.devices.ideal_device(g_max=20e-6, steps=steps)
    seen = simulated_trains(device, torch.full((1000,), 1e-6), torch.ones(pulses, dtype=torch.int64), False)[:40]
    seen[:saturated] = 20e-6
    columns = {
        "device": torch.arange(40).repeat_interleave(pulses + 1),
        "pulse": torch.arange(pulses + 1).repeat(40),
        "conductance": seen.flatten().double(),
    }
    return pulse_data(read_measurements(columns), 20e-6, ())


def every_step(devices: int) -> Variation:
    """The integral over the step of a device as a sum of 4000 terms."""
    at = torch.linspace(0.1, 3.0, 4001, dtype=torch.float64).unsqueeze(1).expand(-1, devices)
    return Variation(at, torch.full_like(at, math.log(2.9 / 4000)), D2D)


@pytest.mark.parametrize("pulses", [6, 16])
def test_nine_nodes_integrate_over_devices_whether_or_not_trains_reach_the_bound(pulses: int) -> None:
    data = bounded_trains(pulses)
    form = ConstantForm(data.g_max, data.two_sided, data.bounded)
    theta = torch.tensor([math.log(SIZE), math.log(C2C), math.log(D2D)], dtype=torch.float64)
    nodes = data.variation(form, theta[:2])
    assert nodes is not None
    nine, all_steps = (StepModel(form, data, v).likelihood(theta[None])[0] for v in (nodes, every_step(data.devices)))
    assert float((nine - all_steps).abs().max()) < 0.05


def test_a_device_that_was_always_at_the_bound_hides_no_differences() -> None:
    data = bounded_trains(12, saturated=1)
    form = ConstantForm(data.g_max, data.two_sided, data.bounded)
    found = data.variation(form, torch.tensor([math.log(SIZE), math.log(C2C)], dtype=torch.float64))
    assert found is not None
    assert found.d2d == pytest.approx(D2D, rel=0.4)
    assert bool(found.at.isfinite().all())


def test_errors_are_those_of_exact_second_derivatives_where_one_direction_is_nearly_flat() -> None:
    """Steps that nearly vanish at the bound, and their noise with them: eigenvalues from 40 to 30,000."""
    z = torch.linspace(-1.0, 1.0, 600, dtype=torch.float64)
    noise = torch.randn(600, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def mean(theta: Tensor) -> Tensor:
        return theta[..., :1].exp() * (1.0 - (theta[..., 1:2] + theta[..., 2:] * z).exp())

    truth = torch.tensor([0.7, -1.556, 1.451], dtype=torch.float64)
    steps = mean(truth) * (1.0 + 0.3 * noise)

    def likelihood(theta: Tensor) -> Tensor:
        return -0.5 * ((steps / mean(theta) - 1.0) / 0.3).square() - mean(theta).log()

    found = maximise(likelihood, truth, 600)
    exact = torch.autograd.functional.hessian(lambda theta: -likelihood(theta).sum(), found.theta)
    assert found.converged
    errors, wanted = (torch.linalg.inv(h).diagonal().sqrt() for h in (found.information.sum(0), exact))
    torch.testing.assert_close(errors, wanted, rtol=0.02, atol=0.0)


def test_a_rounded_corner_exceeds_the_law_by_the_rounding_and_nowhere_more() -> None:
    theta = torch.tensor([[-0.015, 0.02, 0.05]], dtype=torch.float64)
    g = torch.cat((torch.logspace(-3.0, 0.0, 200, dtype=torch.float64), torch.tensor([math.exp(-2.0)]).double()))
    sharp = torch.maximum(-0.015 * g.log() + 0.02, torch.tensor(0.05).double())
    apart = ClippedLogarithm().rounded(0.001).value(theta, g)[0] - sharp
    assert float(apart[-1]) == pytest.approx(0.001)
    assert float(apart.min()) > 0.0
    assert float(apart.max()) == float(apart[-1])
    torch.testing.assert_close(ClippedLogarithm().value(theta, g)[0], sharp)


def test_the_error_of_a_level_is_that_of_the_mean_of_its_devices() -> None:
    """5 levels of 400 devices around a law: 0.02 / sqrt(400); the median of 2000 differences has an error of 3 %."""
    g = torch.linspace(0.2, 1.0, 5, dtype=torch.float64).repeat_interleave(400)
    nu = 0.1 * g + 0.02 * torch.randn(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    none: Tensor = torch.zeros_like(g)
    devices = Devices(g, none, none, none, nu, *(none,) * 4)
    assert error_of_level(devices, 5) == pytest.approx(0.001, rel=0.1)
