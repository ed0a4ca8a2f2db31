"""The forward pass of a layer in evaluation mode against ``nn.Linear``: standard inference preset, without wires.

It has an 8-bit DAC with a calibrated range, output-referred read noise, output noise, an 8-bit ADC, and one scale per
column. Weights are digital, as in hardware-aware evaluation, or programmed, as on a chip. Single rows, as in generation
token by token, are measured apart.
"""

from __future__ import annotations

import torch
from torch import nn

import phasegrad as pg
from benchmarks.harness import Figure, side_by_side

DIGITAL, PROGRAMMED = "digital weights", "programmed"
# size, samples, targets by kind of weights, rounds
CASES = (
    (1024, 512, {DIGITAL: "at most 1.2", PROGRAMMED: "at most 1.5"}, 60),
    (1024, 1, {DIGITAL: "-", PROGRAMMED: "at most 3"}, 300),
    (2048, 1, {DIGITAL: "-", PROGRAMMED: "at most 3"}, 100),
)


def figures() -> list[Figure]:
    """Measure every case."""
    return [figure for case in CASES for figure in _figures(*case)]


def _figures(size: int, samples: int, targets: dict[str, str], rounds: int) -> list[Figure]:
    torch.manual_seed(0)
    digital = nn.Linear(size, size).eval()
    data = torch.randn(512, size)
    x = data[:samples].contiguous()
    analog = pg.hwa.calibrate(pg.convert(digital, pg.presets.pcm_inference()), [data], recipe=None).eval()
    layers = {DIGITAL: analog, PROGRAMMED: pg.inference.program(analog, seed=0)}
    result = []
    with torch.no_grad():
        for name, layer in layers.items():
            a, b, ratio = side_by_side(lambda layer=layer: layer(x), lambda: digital(x), rounds)
            full = f"forward {size}x{size} B{samples} {name}"
            result.append(Figure(full, a * 1e3, "ms", "nn.Linear", b * 1e3, ratio, targets[name]))
    return result
