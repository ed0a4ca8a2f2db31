"""Tiles with wires: the effective matrix of 256 x 256 cells, its adjoint, and products with it.

A published fixed-point solver takes 0.04 s for one vector at 1 ohm and 8.3 s at 5 ohm; a sparse LU of all nodes takes
1.0 s.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

import phasegrad as pg
from benchmarks.harness import Figure, median_time, side_by_side
from phasegrad.crossbar import Wires

SIZE, BATCH = 256, 512


def figures() -> list[Figure]:
    """Measure solutions at several resistances, and products with and without wires."""
    torch.manual_seed(0)
    g = torch.rand(SIZE, SIZE, dtype=torch.float64) * 25e-6
    solving = [_solving(g, ohm) for ohm in (0.0, 1.0, 5.0, 100.0)]
    return [*solving, *_training(g), *(_products(name) for name in ("ideal", "joshi_2020"))]


def _solving(g: torch.Tensor, ohm: float) -> Figure:
    wires = Wires(word_line=ohm, bit_line=ohm)
    seconds = median_time(lambda: wires.effective(g), 7)
    return Figure(f"effective matrix {SIZE}x{SIZE}, {ohm:g} ohm", seconds, "s", None, None, None, "at most 0.5")


def _training(g: torch.Tensor) -> list[Figure]:
    """Measure forward and backward of one plane, in float32 as in training."""
    result, exact = [], 0.0
    cells = g.float().requires_grad_()
    for solve in ("exact", "first-order"):
        wires = Wires(word_line=1.0, bit_line=1.0, solve=solve)
        seconds = median_time(lambda wires=wires: wires.effective(cells).sum().backward(), 5)
        exact = exact or seconds
        name = f"forward and backward {SIZE}x{SIZE}, {solve}"
        result.append(Figure(name, seconds, "s", "exact", exact, seconds / exact, "-"))
    return result


def _products(devices: str) -> Figure:
    """Measure products of a programmed layer with and without wires."""
    hardware = replace(pg.presets.pcm_inference(), rows=SIZE, columns=SIZE)
    if devices == "ideal":
        hardware = replace(hardware, cell=pg.cells.DifferentialPair(device=pg.devices.ideal_device()))
    layers, digital, x = [], nn.Linear(SIZE, SIZE), torch.randn(BATCH, SIZE)
    for wires in (Wires(word_line=1.0, bit_line=1.0), None):
        net = pg.convert(digital, replace(hardware, wires=wires))
        layers.append(pg.inference.program(pg.hwa.calibrate(net, [x], recipe=None), seed=0))
    with torch.no_grad():
        a, b, ratio = side_by_side(lambda: layers[0](x), lambda: layers[1](x), 400)
    name = f"product {SIZE}x{SIZE} B{BATCH}, {devices}"
    return Figure(name, a * 1e3, "ms", "ideal wires", b * 1e3, ratio, "at most 1.1")
