"""Layers with bit-sliced weights: each slice has its own converters and is added digitally."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.cells import DifferentialSlices, OffsetSlices
from phasegrad.crossbar import Adc, FixedRange, FullScaleRange, RampAdc
from phasegrad.devices import ideal_device, joshi_2020

BOUND = 5.0
KINDS = (DifferentialSlices, OffsetSlices)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def hardware(kind: Any, *, bits: int = 6, slices: int = 2, device: Any = None, **options: Any) -> pg.Hardware:
    cell = kind(device=device or ideal_device(), bits=bits, slices=slices)
    return replace(pg.presets.ideal_inference(), cell=cell, **options)


def linear(weight: Tensor, hw: pg.Hardware) -> pg.nn.AnalogLinear:
    layer = pg.nn.AnalogLinear(weight.shape[1], weight.shape[0], bias=False, hardware=hw)
    layer.weight.data.copy_(weight)
    return layer.eval()


def rounded(w: Tensor, rows: int, bits: int) -> Tensor:
    """The weights, rounded to the given bits per tile and column."""
    m = 2 ** (bits - 1) - 1
    parts = []
    for tile in w.split(rows, 1):
        s = tile.abs().amax(1, keepdim=True)
        parts.append((tile / s * m).round() / m * s)
    return torch.cat(parts, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("programmed", [False, True])
def test_exact_slices_compute_the_product_of_the_rounded_weights(kind: Any, programmed: bool) -> None:
    w, x = random(6, 50), random(30, 50, seed=1)
    layer = linear(w, hardware(kind, rows=20, columns=4))
    layer = pg.inference.program(layer, seed=0) if programmed else layer
    torch.testing.assert_close(layer(x), x @ rounded(w, 20, 6).t(), rtol=1e-5, atol=1e-4)
    if programmed:
        torch.testing.assert_close(layer.weight, rounded(w, 20, 6), rtol=1e-5, atol=1e-5)
    conv = pg.nn.AnalogConv2d(4, 6, 3, groups=2, bias=False, hardware=hardware(kind, rows=7)).eval()
    exact = rounded(conv.weight.detach().flatten(1), 7, 6).view_as(conv.weight)
    conv, images = pg.inference.program(conv, seed=0) if programmed else conv, random(2, 4, 7, 7)
    torch.testing.assert_close(conv(images), F.conv2d(images, exact, groups=2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("programmed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_slice_has_a_converter_before_the_shift_and_add(kind: Any, programmed: bool) -> None:
    w, x = random(6, 10), random(50, 10, seed=1)
    hw = hardware(kind, bits=6, slices=3, rows=4, adc=Adc(bits=4, range=FixedRange(value=2.0)))
    layer = linear(w, hw)
    layer = pg.inference.program(layer, seed=0) if programmed else layer
    wanted = torch.zeros(50, 6, dtype=torch.float64)
    largest = x.abs().amax(1, keepdim=True).double()
    for a, b in zip(x.split(4, 1), w.split(4, 1), strict=True):
        s = b.abs().amax(1).double()
        for factor, digit in zip(hw.cell.slice_factors, hw.cell.bit_slice(b / s.float().unsqueeze(1)), strict=True):
            y = a.double() @ digit.double().t() / (2.0 * largest) * 7
            wanted += factor * y.clamp(-7, 7).round() / 7 * 2.0 * largest * s
    close = torch.isclose(layer(x).double(), wanted, rtol=1e-5, atol=1e-5)
    assert close.float().mean() > 0.98  # sums of small digits hit rounding ties, which float32 may round the other way


def test_converters_of_slices_are_independent() -> None:
    n = 4000
    hw = hardware(
        DifferentialSlices, bits=3, slices=2, adc=Adc(bits=16, range=FixedRange(value=2.0), gain_mismatch=0.02)
    )
    layer = linear(torch.ones(n, 1), hw)  # 3 of 3 codes: digits 1 and 1 with weights 1 and 2
    assert layer.converters.outputs.shape == (2, 2, n)
    out = layer(torch.ones(1, 1))[0].detach()
    assert out.std().item() == pytest.approx(0.02 * 5**0.5 / 3, rel=BOUND / (2 * n) ** 0.5)


def test_device_errors_are_weighted_by_the_significance_of_their_slice() -> None:
    n = 20_000
    device = joshi_2020()
    hw = hardware(DifferentialSlices, bits=5, slices=2, device=device)
    torch.manual_seed(0)
    chip = pg.inference.program(
        linear(torch.full((n, 1), 0.7), hw), seed=0
    )  # code 15: every device is at g_max or at zero
    g = chip.devices.conductance.double() / device.g_max
    pair = g[0].var() + g[1].var()
    variance = sum(f * f for f in hw.cell.slice_factors) * pair * 0.7**2
    assert chip.weight.var().item() == pytest.approx(variance.item(), rel=BOUND * (2 * 2 / n) ** 0.5)


def test_output_noise_is_drawn_for_every_slice() -> None:
    n = 20_000
    hw = hardware(DifferentialSlices, bits=5, slices=2, output_noise=0.1)
    noise = (linear(torch.ones(n, 1), hw)(torch.ones(1, 1)) - 1.0).detach()
    variance = sum(f * f for f in hw.cell.slice_factors) * 0.1**2
    assert noise.var().item() == pytest.approx(variance, rel=BOUND * (2 / n) ** 0.5)


def test_training_noise_is_drawn_for_every_slice() -> None:
    n = 40_000
    hw = hardware(DifferentialSlices, bits=5, slices=2)
    layer = linear(torch.ones(n, 1), hw).train()
    layer.perturbation = pg.crossbar.Perturbation(additive=0.1)
    noise = (layer(torch.ones(1, 1)) - 1.0).detach()
    variance = sum(f * f for f in hw.cell.slice_factors) * 0.1**2
    assert noise.var().item() == pytest.approx(variance, rel=BOUND * (2 / n) ** 0.5)


def test_a_reference_drifts_with_its_columns() -> None:
    hw = hardware(OffsetSlices, bits=6, slices=2, device=joshi_2020(), columns=3)
    layer = linear(torch.zeros(6, 40), hw)
    layer.weight.data[:, 0] = 1.0
    chip = pg.inference.program(layer, seed=0)
    assert chip.devices.reference.conductance.shape == (2, 2, 40)
    old = pg.inference.age(chip, seconds=3.15e7)
    alone = hw.cell.weight(old.devices.present(old.devices.clock))
    assert alone[:, 1:].mean() < -0.3  # without the reference, zero weights drift against the exact offset
    assert old.weight[:, 1:].mean().abs() < 0.1


def test_columns_of_a_tile_share_the_error_of_their_reference() -> None:
    hw = hardware(OffsetSlices, bits=4, slices=1, device=joshi_2020(), columns=4)
    chip = pg.inference.program(linear(torch.cat((torch.zeros(8, 2000), torch.ones(8, 1)), 1), hw), seed=0)
    errors = torch.corrcoef(chip.weight[:, :2000])
    n = 2000
    assert (errors[:4, :4] - 0.5 + 0.5 * torch.eye(4) - torch.eye(4)).abs().max() < BOUND / n**0.5
    assert errors[:4, 4:].abs().max() < BOUND / n**0.5


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_those_of_the_unsliced_weight_without_clipping(kind: Any) -> None:
    w, x = random(6, 50), random(30, 50, seed=1).requires_grad_()
    layer = linear(w, hardware(kind, rows=20, slices=3, adc=Adc(bits=8, range=FullScaleRange())))
    grad = random(30, 6, seed=2)
    layer(x).backward(grad)
    torch.testing.assert_close(x.grad, grad @ rounded(w, 20, 6), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.weight.grad, grad.t() @ x.detach(), rtol=1e-4, atol=1e-4)


def test_a_clipped_slice_loses_its_share_of_the_gradient() -> None:
    hw = hardware(DifferentialSlices, bits=3, slices=2, adc=Adc(bits=12, range=FixedRange(value=1.5)))
    layer = linear(
        torch.tensor([[1.0, 2.0 / 3.0]]), hw
    )  # codes 3 and 2: the more significant slice sums to 2 and is clipped
    layer(torch.tensor([[1.0, 1.0]])).backward(torch.ones(1, 1))
    torch.testing.assert_close(layer.weight.grad, torch.tensor([[1.0, 1.0]]) * 1.0 / (1.0 + 4.0))


@pytest.mark.parametrize("kind", KINDS)
def test_an_aged_and_compensated_sliced_chip_survives_its_state_dict(kind: Any) -> None:
    hw = hardware(
        kind, device=joshi_2020(), adc=RampAdc(bits=10, range=FixedRange(value=10.0), gain_mismatch=0.01), rows=20
    )
    net = nn.Sequential(pg.nn.AnalogLinear(50, 6, hardware=hw)).eval()
    chip = pg.inference.program(net, seed=0)
    old = pg.inference.compensate(pg.inference.age(chip, seconds=86_400.0), compensation="layer", seed=1)
    assert (old[0].devices.gain > 1.02).all()
    other = copy.deepcopy(pg.inference.program(net, seed=1))
    other.load_state_dict(old.state_dict())
    assert torch.equal(other[0].weight, old[0].weight)
    torch.manual_seed(0)
    first = old(torch.ones(2, 50))
    torch.manual_seed(0)
    assert torch.equal(other(torch.ones(2, 50)), first)


@pytest.mark.parametrize(("kind", "devices"), [(DifferentialSlices, 2 * 2 * 60), (OffsetSlices, 2 * (60 + 2 * 10))])
def test_summary_counts_every_slice_and_reference(kind: Any, devices: int) -> None:
    net = nn.Sequential(pg.nn.AnalogLinear(10, 6, hardware=hardware(kind, columns=4)))
    assert pg.summary(net).devices == devices


@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_weight_makes_its_output_nan(kind: Any) -> None:
    layer = linear(random(6, 50), hardware(kind, adc=Adc()))
    layer.weight.data[2, 5] = torch.nan
    y = layer(random(3, 50, seed=1))
    assert y[:, 2].isnan().all()
    assert y[:, [0, 1, 3, 4, 5]].isfinite().all()
