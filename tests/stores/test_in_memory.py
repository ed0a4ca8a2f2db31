"""Layers whose weight is trained in memory: forward and backward products."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.optim.test_analog_sgd import fine
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.crossbar import AbsMaxRange, Adc, Dac, FixedRange


def linear(hardware: pg.Hardware, **options: Any) -> pg.nn.AnalogLinear:
    torch.manual_seed(0)
    return pg.nn.AnalogLinear(12, 8, hardware=hardware, **options)


def normal(*size: int, seed: int = 1) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def input_gradient(layer: nn.Module, d: Tensor) -> Tensor:
    x = normal(len(d), 12).requires_grad_()
    layer(x).backward(d)
    assert x.grad is not None
    return x.grad


def test_an_exact_periphery_draws_nothing() -> None:
    layer = linear(fine())
    before = torch.get_rng_state()
    input_gradient(layer, normal(5, 8))
    assert torch.equal(torch.get_rng_state(), before)


def test_gradients_drive_the_columns_through_the_dac_one_sample_at_a_time() -> None:
    layer, d = linear(fine(dac=Dac(bits=2, range=AbsMaxRange()))), normal(5, 8)
    largest = d.abs().amax(1, keepdim=True)  # the DACs drive -1, 0 or 1 times this value
    expected = ((d / largest).round() * largest) @ layer.weight.detach()
    torch.testing.assert_close(input_gradient(layer, d), expected)


def test_backward_products_convert_each_column_tile_separately() -> None:
    layer = linear(fine(columns=3, adc=Adc(bits=3, range=FixedRange(value=0.9))))
    d = normal(5, 8)
    unit = d.abs().amax(1, keepdim=True) * 0.9 / 3  # three steps on each side of zero, in units of the largest product
    parts = [a @ w for a, w in zip(d.split(3, 1), layer.weight.detach().split(3), strict=True)]
    expected = sum((p / unit).round().clamp(-3, 3) * unit for p in parts)
    torch.testing.assert_close(input_gradient(layer, d), expected)


@pytest.mark.parametrize("fields", [{"output_noise": 0.1}, {"read_noise": 0.1}], ids=["output", "read"])
def test_backward_products_draw_new_noise(fields: dict[str, float]) -> None:
    layer, d = linear(fine(**fields)), normal(1, 8).expand(4000, 8)
    found = input_gradient(layer, d)
    noise = found - d @ layer.weight.detach()
    largest = d[0].abs().max()
    sd = 0.1 * largest if "output_noise" in fields else 0.1 * (layer.weight.detach().abs().t() @ d[0].square()).sqrt()
    # The relative standard error of the standard deviation of 4,000 normal numbers is 1 / sqrt(8,000).
    assert ((noise.std(0) / sd - 1.0).abs() < 5.0 / 8000**0.5).all()
    assert not torch.equal(found, input_gradient(layer, d))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 12), (2, 5, 12), (12,)])
def test_gradients_of_input_and_bias_equal_those_of_torch(shape: tuple[int, ...], bias: bool) -> None:
    layer, x = linear(fine(), bias=bias), normal(*shape)
    digital = pg.to_digital(layer)
    grads = []
    for module in (layer, digital):
        inputs = x.clone().requires_grad_()
        y = module(inputs)
        (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
        grads.append([y.detach(), inputs.grad, *([module.bias.grad] if bias else [])])
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_only_required_gradients_are_computed() -> None:
    layer = linear(fine())
    layer.bias.requires_grad_(False)
    layer(normal(5, 12)).sum().backward()  # no gradient of the input
    assert layer.bias.grad is None
    assert layer.weight.grad.samples[0].number == 5
    layer.weight.requires_grad_(False)
    layer.zero_grad()
    x = normal(5, 12).requires_grad_()
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert x.grad is not None
