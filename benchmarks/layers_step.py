"""A hardware-aware training step of a convolution with batch norm, and of an LSTM, against the same step in float.

Both run forward, backward and SGD. The analog layers have the preset's tiles with PCM-like weight noise and clipping.
The float LSTM is that of torch, which runs all steps of a sequence in one call; the analog LSTM loops over the steps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

import phasegrad as pg
from benchmarks.harness import Figure, side_by_side


def step(layer: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """A training step on a fixed batch, towards smaller outputs."""
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-6)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        y = layer(x)
        (y if isinstance(y, torch.Tensor) else y[0]).square().sum().backward()
        optimizer.step()

    return run


def convolutions() -> tuple[nn.Module, torch.Tensor]:
    """Four residual-network layers of 32 channels, channels last."""
    layers = [nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()) for _ in "four"]
    net = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    return net, torch.randn(64, 32, 16, 16).contiguous(memory_format=torch.channels_last)


def lstm() -> tuple[nn.Module, torch.Tensor]:
    """A layer of 256 units, and 64 sequences of 96 steps."""
    return nn.LSTM(64, 256, batch_first=True), torch.randn(64, 96, 64)


CASES = (("four 3x3 convolutions, 32 channels, B64 16x16", convolutions, 30), ("LSTM 64-256, B64 T96", lstm, 10))


def figures() -> list[Figure]:
    """Measure every case."""
    result = []
    for name, make, rounds in CASES:
        torch.manual_seed(0)
        digital, x = make()
        analog = pg.convert(digital, pg.presets.pcm_inference())
        pg.hwa.calibrate(analog, [x], recipe=pg.hwa.Recipe())
        a, b, ratio = side_by_side(step(analog.train(), x), step(digital.train(), x), rounds)
        result.append(Figure(f"hwa step, {name}", a * 1e3, "ms", "float", b * 1e3, ratio, "none"))
    return result
