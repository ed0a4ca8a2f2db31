"""The product of tiles: conversion per tile, laws of the noise, and propagation of non-finite values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.crossbar import AbsMaxRange, Adc, CalibratedRange, Dac, FixedRange, FullScaleRange, LearnedRange

IDEAL = pg.presets.ideal_inference()
INPUT_RANGES = {
    "exact": None,
    "fixed": Dac(range=FixedRange(value=2.0)),
    "learned": Dac(range=LearnedRange()),
    "abs-max": Dac(range=AbsMaxRange()),
}
OUTPUT_RANGES = {
    "exact": None,
    "fixed": Adc(range=FixedRange(value=10.0)),
    "full-scale": Adc(range=FullScaleRange()),
    "calibrated": Adc(range=CalibratedRange()),
    "learned": Adc(range=LearnedRange(start=8.0)),
}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear(weight: Tensor, **options: Any) -> pg.nn.AnalogLinear:
    layer = pg.nn.AnalogLinear(weight.shape[1], weight.shape[0], bias=False, hardware=replace(IDEAL, **options))
    layer.weight.data.copy_(weight)
    return layer.eval()


def mid_tread(y: Tensor, full: Tensor, bits: int) -> Tensor:
    """An independent converter: clip to ``full``, round to ``2**bits - 2`` steps."""
    max_code = 2 ** (bits - 1) - 1
    return (y / full * max_code).clamp(-max_code, max_code).round() * full / max_code


def sum_of_tiles(x: Tensor, w: Tensor, rows: int, bits: int, bound: float) -> Tensor:
    """Outputs of a layer for inputs ``[n, in]``: the part of each tile is converted, then the parts are added."""
    x, w = x.double(), w.double()
    largest = x.abs().amax(1, keepdim=True)
    parts = []
    for at in range(0, w.shape[1], rows):
        tile = w[:, at : at + rows]
        parts.append(mid_tread(x[:, at : at + rows] @ tile.t(), bound * largest * tile.abs().amax(1), bits))
    return torch.stack(parts).sum(0)


@pytest.mark.parametrize("bound", [0.8, 3.0])
def test_each_row_tile_is_converted_before_the_digital_sum(bound: float) -> None:
    w, x = random(6, 10), random(50, 10, seed=1)
    layer = linear(w, rows=4, adc=Adc(bits=4, range=FixedRange(value=bound)))
    expected = sum_of_tiles(x, w, rows=4, bits=4, bound=bound)
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-5)
    converted_last = sum_of_tiles(x, w, rows=10, bits=4, bound=bound)
    assert (converted_last - expected).abs().mean() > 0.1  # the order matters, so the check above is sensitive


def test_another_tile_does_not_undo_the_clipping_of_a_tile() -> None:
    layer = linear(torch.tensor([[1.0, 1.0, -1.0, -1.0]]), rows=2, adc=Adc(range=FixedRange(value=1.5)))
    assert layer(torch.tensor([[1.0, 1.0, 1.0, 0.0]])).item() == pytest.approx(1.5 - 1.0, abs=1.5 / 127)


@pytest.mark.parametrize("groups", [1, 2])
def test_each_row_tile_of_a_convolution_is_converted_before_the_sum(groups: int) -> None:
    hardware = replace(IDEAL, rows=7, adc=Adc(bits=4, range=FixedRange(value=1.5)))
    layer = pg.nn.AnalogConv2d(4, 6, 3, groups=groups, bias=False, hardware=hardware)
    layer.weight.data.copy_(random(*layer.weight.shape))
    images = random(1, 4, 6, 5, seed=1)
    patches = F.unfold(images, 3)[0].t()  # [positions, channel and kernel position]
    largest = images.abs().max().expand(len(patches), 1)
    parts = []
    for w, own in zip(layer.weight.flatten(1).chunk(groups), patches.chunk(groups, 1), strict=True):
        whole = torch.cat((own, largest), 1)  # an unread input that sets the largest value of the image
        parts.append(sum_of_tiles(whole, torch.cat((w, torch.zeros(len(w), 1)), 1).detach(), 7, 4, 1.5))
    expected = torch.cat(parts, 1).t().reshape(1, 6, 4, 3)
    torch.testing.assert_close(layer(images).double(), expected, rtol=1e-5, atol=1e-5)


def check_standard_normal(z: Tensor) -> None:
    """Mean 0 and standard deviation 1 to five standard errors."""
    n = z.numel()
    assert abs(z.mean().item()) < 5 / n**0.5
    assert abs(z.std().item() - 1) < 5 / (2 * n) ** 0.5


@pytest.mark.parametrize("rows", [12, 5])
def test_output_noise_has_sigma_times_scale_times_range_for_each_tile(rows: int) -> None:
    w, x = random(40, 12), random(1000, 12, seed=1)
    layer = linear(w, rows=rows, output_noise=0.04)
    torch.manual_seed(0)
    noise = (layer(x) - x @ w.t()).detach()
    unit = torch.stack([part.abs().amax(1) for part in w.split(rows, 1)]).square().sum(0).sqrt()
    check_standard_normal(noise / (0.04 * unit * x.abs().amax(1, keepdim=True)))


@pytest.mark.parametrize("rows", [12, 5])
def test_read_noise_has_sigma_root_sum_of_weight_times_input_squared(rows: int) -> None:
    w, x = random(40, 12), random(1000, 12, seed=1)
    layer = linear(w, rows=rows, read_noise=0.0175)
    torch.manual_seed(0)
    noise = (layer(x) - x @ w.t()).detach()
    parts = zip(x.split(rows, 1), w.split(rows, 1), strict=True)
    variance = sum(b.abs().amax(1) * (a.square() @ b.abs().t()) for a, b in parts)
    check_standard_normal(noise / (0.0175 * variance.sqrt()))


def test_read_noise_depends_on_the_converted_input() -> None:
    layer = linear(torch.ones(1, 1), read_noise=0.1, dac=Dac(range=FixedRange(value=1.0)))
    torch.manual_seed(0)
    check_standard_normal((layer(torch.full((40_000, 1), 9.0)) - 1.0).detach() / 0.1)


@pytest.mark.parametrize("rows", [64, 7])
def test_noise_of_a_convolution_follows_the_same_laws(rows: int) -> None:
    hardware = replace(IDEAL, rows=rows, output_noise=0.04, read_noise=0.0175)
    layer = pg.nn.AnalogConv2d(4, 6, 3, groups=2, bias=False, hardware=hardware)
    images = random(60, 4, 12, 12, seed=1)
    torch.manual_seed(0)
    noise = (layer(images) - F.conv2d(images, layer.weight, groups=2)).detach()
    variance = torch.zeros(())
    for at in range(0, 18, rows):
        part = torch.zeros_like(layer.weight.flatten(1))
        part[:, at : at + rows] = layer.weight.flatten(1)[:, at : at + rows].detach()
        scale = part.abs().amax(1).view(-1, 1, 1)
        variances = F.conv2d(images.square(), part.abs().view_as(layer.weight), groups=2)
        largest = images.abs().amax((1, 2, 3)).view(-1, 1, 1, 1)
        variance = variance + 0.0175**2 * scale * variances + (0.04 * scale * largest) ** 2
    check_standard_normal(noise / variance.sqrt())


def test_noise_of_different_outputs_rows_and_tiles_is_independent() -> None:
    layer = linear(torch.ones(2, 2), rows=1, output_noise=1.0)
    torch.manual_seed(0)
    noise = (layer(torch.ones(40_000, 2)) - 2.0).detach()
    pairs = [(noise[:, 0], noise[:, 1]), (noise[:-1, 0], noise[1:, 0])]
    for a, b in pairs:
        assert abs(torch.corrcoef(torch.stack((a, b)))[0, 1].item()) < 5 / len(a) ** 0.5
    assert noise.var().item() == pytest.approx(2.0, rel=5 * (2 / noise.numel()) ** 0.5)  # two tiles, added


def layers(hardware: pg.Hardware) -> list[tuple[nn.Module, Tensor]]:
    """A linear layer and a convolution of several row-tiles, each with an input of four rows."""
    torch.manual_seed(0)
    conv = pg.nn.AnalogConv2d(3, 4, 3, padding=1, hardware=hardware)
    return [(pg.nn.AnalogLinear(10, 6, hardware=hardware), random(4, 10)), (conv, random(4, 3, 5, 5))]


def bias_of(layer: nn.Module, y: Tensor) -> Tensor:
    assert isinstance(layer.bias, Tensor)
    return layer.bias.view(-1, *[1] * (y.dim() - 2)).expand_as(y)


@pytest.mark.parametrize("adc", OUTPUT_RANGES.values(), ids=OUTPUT_RANGES)
@pytest.mark.parametrize("dac", INPUT_RANGES.values(), ids=INPUT_RANGES)
def test_the_output_for_zero_inputs_is_exactly_the_bias(dac: Dac | None, adc: Adc | None) -> None:
    for layer, x in layers(replace(IDEAL, rows=4, dac=dac, adc=adc)):
        y = layer(torch.zeros_like(x))
        assert torch.equal(y, bias_of(layer, y))


@pytest.mark.parametrize("convention", ["mid-tread", "mid-rise"])
@pytest.mark.parametrize("dac", INPUT_RANGES.values(), ids=INPUT_RANGES)
def test_the_output_for_zero_weights_is_exactly_the_bias_on_noisy_hardware(dac: Dac | None, convention: str) -> None:
    noisy = replace(pg.presets.pcm_inference(), rows=4, dac=dac, adc=Adc(convention=convention))
    for layer, x in layers(noisy):
        nn.init.zeros_(layer.weight)
        y = layer(x)
        assert torch.equal(y, bias_of(layer, y))


def test_zero_inputs_with_abs_max_range_have_no_noise() -> None:
    for layer, x in layers(replace(pg.presets.pcm_inference(), rows=4, dac=Dac(range=AbsMaxRange()))):
        y = layer(torch.zeros_like(x))
        assert torch.equal(y, bias_of(layer, y))


@pytest.mark.parametrize("noisy", [False, True], ids=["exact", "noisy"])
@pytest.mark.parametrize("adc", OUTPUT_RANGES.values(), ids=OUTPUT_RANGES)
@pytest.mark.parametrize("dac", INPUT_RANGES.values(), ids=INPUT_RANGES)
def test_non_finite_inputs_propagate_to_their_rows(dac: Dac | None, adc: Adc | None, noisy: bool) -> None:
    noise = {"output_noise": 0.04, "read_noise": 0.0175} if noisy else {}
    for layer, x in layers(replace(IDEAL, rows=4, dac=dac, adc=adc, **noise)):
        for row, value in enumerate((float("nan"), float("inf"), -float("inf"))):
            x[row].view(-1)[7] = value
        y, counterpart = layer(x), pg.to_digital(layer)(x)
        assert y[torch.isnan(counterpart)].isnan().all()
        assert not y[~torch.isfinite(counterpart)].isfinite().any()
        assert y[3].isfinite().all()  # the finite row is unaffected


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("preset", ["pcm", "ideal"])
def test_non_finite_weights_propagate_to_their_outputs(preset: str, value: float) -> None:
    hardware = pg.presets.pcm_inference() if preset == "pcm" else IDEAL
    for layer, x in layers(replace(hardware, rows=4)):
        with torch.no_grad():
            layer.weight.view(len(layer.weight), -1)[2, 5] = value
        counterpart = nn.functional.linear(x, layer.weight) if x.dim() == 2 else F.conv2d(x, layer.weight, padding=1)
        y = layer(x)
        assert y[torch.isnan(counterpart)].isnan().all()
        assert not y[~torch.isfinite(counterpart)].isfinite().any()
        assert y[:, [0, 1, 3]].isfinite().all()
