"""A hardware-aware training step against the same step of ``nn.Linear``.

Both run forward, backward (input and weight gradients) and SGD. The analog layer adds PCM-like weight noise,
clipping, an 8-bit DAC with a learned range, output noise, and an 8-bit ADC.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import nn

import phasegrad as pg
from benchmarks.harness import Figure, side_by_side

CASES = ((1024, 64, 200, "at most 1.5"), (2048, 512, 20, "at most 1.2"))


def step(layer: nn.Module, x: torch.Tensor, upstream: torch.Tensor) -> Callable[[], None]:
    """A training step on a fixed batch; ``upstream`` replaces the gradient of a loss."""
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-6)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        x.grad = None
        layer(x).backward(upstream)
        optimizer.step()

    return run


def hardware() -> pg.Hardware:
    """The preset without output-referred read noise, which this figure excludes."""
    return dataclasses.replace(pg.presets.pcm_inference(), read_noise=0.0)


def figures() -> list[Figure]:
    """Measure every case."""
    result = []
    for size, batch, rounds, target in CASES:
        torch.manual_seed(0)
        digital = nn.Linear(size, size)
        analog = pg.convert(digital, hardware())
        x, upstream = torch.randn(batch, size, requires_grad=True), torch.randn(batch, size)
        pg.hwa.calibrate(analog, [x.detach()], recipe=pg.hwa.Recipe())
        a, b, ratio = side_by_side(step(analog, x, upstream), step(digital, x, upstream), rounds)
        name = f"hwa step {size}x{size} B{batch}"
        result.append(Figure(name, a * 1e3, "ms", "nn.Linear", b * 1e3, ratio, target))
    return result
