"""The forward pass of a layer in evaluation mode against ``nn.Linear``: standard inference preset, without wires.

It has an 8-bit DAC with a calibrated range, output-referred read noise, output noise, an 8-bit ADC, and one scale per
column. Weights are digital, as in hardware-aware evaluation, or programmed, as on a chip.
"""

from __future__ import annotations

import torch
from torch import nn

import phasegrad as pg
from benchmarks.harness import Figure, side_by_side

SIZE, SAMPLES, ROUNDS = 1024, 512, 60


def figures() -> list[Figure]:
    """Measure every case."""
    torch.manual_seed(0)
    digital = nn.Linear(SIZE, SIZE).eval()
    x = torch.randn(SAMPLES, SIZE)
    analog = pg.hwa.calibrate(pg.convert(digital, pg.presets.pcm_inference()), [x], recipe=None).eval()
    cases = {
        "digital weights": (analog, "at most 1.2"),
        "programmed": (pg.inference.program(analog, seed=0), "at most 1.5"),
    }
    result = []
    with torch.no_grad():
        for name, (layer, target) in cases.items():
            a, b, ratio = side_by_side(lambda layer=layer: layer(x), lambda: digital(x), ROUNDS)
            full = f"forward {SIZE}x{SIZE} B{SAMPLES} {name}"
            result.append(Figure(full, a * 1e3, "ms", "nn.Linear", b * 1e3, ratio, target))
    return result
