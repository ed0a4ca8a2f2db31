"""The noise of a read that serves one row, drawn for the outputs: the law of reading every device."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.cells import (
    Cell,
    DifferentialPair,
    DifferentialSlices,
    MultiMemristive,
    OffsetSlices,
    ReferencedDevice,
    SignificancePairs,
)
from phasegrad.crossbar.wires import Wires
from phasegrad.devices import CorrelatedNoise, Device, Telegraph, joshi_2020
from phasegrad.ops.native import library

kernels = pytest.mark.skipif(library is None, reason="the reference takes 10 s and more for the reads of a law")

IN, OUT, READS = 200, 32, 400
CELLS: dict[str, Callable[[Device], Cell]] = {
    "pair": lambda device: DifferentialPair(device=device),
    "significance": lambda device: SignificancePairs(device=device, significances=(2.0, 1.0)),
    "slices": lambda device: DifferentialSlices(device=device, bits=5, slices=2),
    "multi": lambda device: MultiMemristive(device=device, pairs=2),
    "single": lambda device: ReferencedDevice(device=device),
}


def _hardware(cell: Cell, **changes: Any) -> pg.Hardware:
    return dataclasses.replace(pg.presets.pcm_inference(), cell=cell, rows=64, columns=8, **changes)


def _chip(hardware: pg.Hardware, seconds: float = 3600.0) -> nn.Module:
    torch.manual_seed(0)
    net = pg.convert(nn.Linear(IN, OUT), hardware)
    pg.hwa.calibrate(net, [torch.randn(64, IN)], recipe=None)
    return pg.inference.age(pg.inference.program(net, seed=0), seconds=seconds)


def _reads(chip: nn.Module, x: Tensor, *, sampled: bool) -> Tensor:
    torch.manual_seed(1)
    with torch.no_grad():
        if not sampled:
            return torch.cat([chip(x) for _ in range(READS)])
        with pg.inference.sampled_reads():
            return torch.cat([chip(x) for _ in range(READS)])


def _kolmogorov_smirnov(z: Tensor) -> float:
    z = z.flatten().sort().values.double()
    steps = torch.arange(len(z) + 1, dtype=torch.float64) / len(z)
    law = torch.special.ndtr(z)
    return float(torch.maximum((steps[1:] - law).abs(), (law - steps[:-1]).abs()).max())


@kernels
@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("seconds", [0.0, 1e6])
def test_sampled_reads_have_the_law_of_the_outputs(cell: str, seconds: float) -> None:
    """Without converters and output noise: mean, sd, shape, and correlation between outputs."""
    chip = _chip(_hardware(CELLS[cell](joshi_2020()), adc=None, output_noise=0.0), seconds)
    x = torch.randn(1, IN)
    weights = chip.devices.row_weights()
    assert weights is not None
    assert weights.variance is not None
    chip.requires_grad_(False)
    factors = torch.tensor(weights.slice_factors or (1.0,)).view(-1, 1, 1)
    matrix, variance = weights.weight.view(-1, OUT, IN), weights.variance.view(-1, OUT, IN)
    scale = weights.scale.t().repeat_interleave(64, dim=1)[:, :IN]
    driven = pg.crossbar.word_lines.drive(x, chip.periphery, chip.hardware)[0][0].x[0]
    mean = (factors * matrix).sum(0) @ driven + chip.bias.detach()
    sd = ((factors.square() * variance).sum(0) * scale @ driven.square()).sqrt()

    z = (_reads(chip, x, sampled=True) - mean) / sd
    assert float(z.mean(0).abs().max()) < 5.0 / math.sqrt(READS)
    assert float(z.square().mean().sqrt()) == pytest.approx(1.0, abs=5.0 / math.sqrt(2.0 * z.numel()) + 2e-3)
    assert _kolmogorov_smirnov(z) < 2.0 / math.sqrt(z.numel()) + 2e-3
    own = (_reads(chip, x, sampled=False) - mean) / sd
    assert float(own.mean(0).abs().max()) < 5.0 / math.sqrt(READS)
    assert float(own.square().mean().sqrt()) == pytest.approx(1.0, abs=5.0 / math.sqrt(2.0 * own.numel()))
    assert _kolmogorov_smirnov(own) < 2.0 / math.sqrt(own.numel())
    for values in (z, own):
        others = torch.corrcoef(values.t()) - torch.eye(OUT)
        assert float(others.abs().max()) < 5.0 / math.sqrt(READS)


@kernels
@pytest.mark.slow
@pytest.mark.parametrize("cell", ["pair", "slices"])
def test_outputs_after_the_converters_of_several_row_tiles(cell: str) -> None:
    chip = pg.inference.compensate(_chip(_hardware(CELLS[cell](joshi_2020())), 1e6), seed=0)
    x = torch.randn(1, IN)
    a, b = (_reads(chip, x, sampled=sampled) for sampled in (True, False))
    sd = a.std(0)
    assert float(((a.mean(0) - b.mean(0)) / sd).abs().max()) < 5.0 * math.sqrt(2.0 / READS)
    assert torch.allclose(b.std(0), sd, rtol=5.0 / math.sqrt(READS))
    assert float((b.var(0) / a.var(0)).mean()) == pytest.approx(1.0, abs=5.0 * math.sqrt(4.0 / (READS * OUT)))


def _takes_the_law(chip: nn.Module, x: Tensor) -> bool:
    torch.manual_seed(3)
    ours = chip(x)
    torch.manual_seed(3)
    with pg.inference.sampled_reads():
        return not torch.equal(ours, chip(x))


X = torch.randn(1, IN, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_where_it_is_used() -> None:
    chip = _chip(_hardware(CELLS["pair"](joshi_2020())))
    assert _takes_the_law(chip, X)
    assert _takes_the_law(chip, X[None])
    assert _takes_the_law(chip, X[0])
    assert not _takes_the_law(chip, X.expand(2, -1))
    one_hot = torch.zeros_like(X)
    one_hot[0, 3] = 1.0
    assert not _takes_the_law(chip, one_hot)  # one device pair, whose read is clipped at 0
    assert not _takes_the_law(chip, X * (torch.arange(IN) < 20))  # a few inputs carry the product
    assert not _takes_the_law(chip, X + 100.0 * one_hot)
    assert _takes_the_law(chip, X * (torch.arange(IN) < 100))  # two of the tiles are not driven at all
    assert not _takes_the_law(chip, 0.0 * X)
    with torch.enable_grad():
        assert not _takes_the_law(chip, X.clone().requires_grad_())
    with torch.autocast("cpu"):
        assert not _takes_the_law(chip, X)
    assert not _takes_the_law(chip.double(), X.double())


@pytest.mark.parametrize(
    "hardware",
    {
        "wires": _hardware(CELLS["pair"](joshi_2020()), wires=Wires(word_line=1.0, bit_line=1.0)),
        "correlated": _hardware(
            CELLS["pair"](dataclasses.replace(joshi_2020(), correlated_noise=CorrelatedNoise(modes_per_decade=0.5)))
        ),
        "telegraph": _hardware(
            CELLS["pair"](
                dataclasses.replace(joshi_2020(), telegraph=Telegraph(fraction=0.1, amplitude=0.2, rates=(1e-3, 1e3)))
            )
        ),
        "reference": _hardware(OffsetSlices(device=joshi_2020(), bits=4, slices=2)),
        "no read noise": _hardware(CELLS["pair"](dataclasses.replace(joshi_2020(), read_noise=None))),
    }.items(),
    ids=lambda item: item[0],
)
@torch.no_grad()
def test_where_the_law_does_not_hold(hardware: tuple[str, pg.Hardware]) -> None:
    assert not _takes_the_law(_chip(hardware[1]), X)


@torch.no_grad()
def test_moments_follow_the_age_and_writes_in_place() -> None:
    chip = _chip(_hardware(CELLS["pair"](joshi_2020()), adc=None, output_noise=0.0))

    def mean(net: nn.Module) -> Tensor:
        weights = net.devices.row_weights()
        assert weights is not None
        return weights.weight

    kept = mean(chip)
    assert mean(chip) is kept
    old = pg.inference.age(chip, seconds=1e7)
    assert float(mean(old).abs().mean() / kept.abs().mean()) < 0.9
    assert mean(chip) is kept  # an older chip does not disturb it
    chip.devices.conductance.mul_(0.5)
    assert torch.allclose(mean(chip), 0.5 * kept, rtol=0.2, atol=float(kept.abs().max()) * 0.02)
    assert not any("kept" in key for key in chip.state_dict())


@torch.no_grad()
def test_the_same_seed_gives_the_same_outputs_at_any_read() -> None:
    chip = _chip(_hardware(CELLS["pair"](joshi_2020())))
    outputs = []
    for _ in range(3):
        torch.manual_seed(5)
        outputs.append((chip(X), chip(X.expand(3, -1)), chip(X)))
    assert all(torch.equal(a, b) for other in outputs[1:] for a, b in zip(outputs[0], other, strict=True))
