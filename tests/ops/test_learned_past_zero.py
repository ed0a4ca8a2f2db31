"""Ranges that training moved past zero count by their size, and gradients are first order."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import phasegrad as pg
from phasegrad.crossbar import Adc, Dac, LearnedRange


def layer(adc: Adc) -> nn.Module:
    device = pg.devices.ideal_device()
    cell = pg.cells.DifferentialPair(device=device)
    return pg.nn.AnalogLinear(8, 3, hardware=pg.Hardware(cell=cell, dac=Dac(), adc=adc)).eval()


@pytest.mark.parametrize("name", ["input_range", "output_range"])
def test_a_negative_range_converts_like_its_size(name: str) -> None:
    analog = layer(Adc(bits=3, range=LearnedRange(start=2.0)))
    x = torch.randn(100, 8)
    expected = analog(x)
    getattr(analog, name).data.neg_()
    torch.testing.assert_close(analog(x), expected)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_bound_takes_the_gradient_of_what_it_clips(sign: float) -> None:
    analog = layer(Adc(bits=8, range=LearnedRange(start=0.1)))
    analog.output_range.data.mul_(sign)
    x = torch.full((1, 8), 3.0)
    y = analog(x).sum()
    y.backward()
    grown = layer(Adc(bits=8, range=LearnedRange(start=0.1)))
    grown.load_state_dict(analog.state_dict())
    grown.output_range.data.mul_(1.01)
    step = 0.01 * analog.output_range.item()
    slope = (grown(x).sum() - y).item() / step
    assert analog.output_range.grad.item() == pytest.approx(slope, rel=1e-3)


def test_second_derivatives_take_clipping_as_constant() -> None:
    analog, x = layer(Adc()), torch.randn(2, 8, requires_grad=True)
    (g,) = torch.autograd.grad(analog(x).sum(), x, create_graph=True)
    (of_weight,) = torch.autograd.grad(g.square().sum(), analog.weight)
    inside = g.detach() != 0.0  # inputs that the range does not clip
    expected = (2.0 * g.detach() * inside).sum(0).expand_as(analog.weight)
    torch.testing.assert_close(of_weight, expected)
