"""Figure of the IR drop in the wires of a tile."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from phasegrad.crossbar import Wires, solve
from phasegrad.drawing import new_figure, save_figure

_TIMES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def wire_losses(
    conductance: Tensor, wires: Wires, path: str | os.PathLike[str] | None = None, *, vectors: int = 64, seed: int = 0
) -> Any:
    """Draw the voltage across each device, and the output errors of ideal wires and of the first-order solution.

    Args:
        conductance: conductances of one array ``[rows, columns]`` [S].
        wires: its wires; the right panel multiplies their resistances by 0.01 to 10.
        path: path of the image file, or ``None`` to write none.
        vectors: number of random inputs, uniform in [0, 1], for the errors.
        seed: seed of the inputs.

    Returns:
        The matplotlib figure: left, the voltage across each device with all word lines driven at 1 V; right, the
        largest output error relative to the largest output, for ideal wires and for the first-order solution.
    """
    figure = new_figure(10.0, 3.8)
    crossing, errors = figure.subplots(1, 2, width_ratios=(1.0, 1.15))
    found = solve(conductance, torch.ones(len(conductance)), wires)
    image = crossing.imshow((found.word_line - found.bit_line).numpy(), cmap="viridis", interpolation="nearest")
    crossing.set(xlabel="column (drivers left)", ylabel="row", title="voltage across each device (V), drivers at 1 V")
    figure.colorbar(image, ax=crossing)
    _errors(errors, conductance.double(), wires, vectors, seed)
    if path is not None:
        save_figure(figure, path)
    return figure


def _errors(axes: Any, conductance: Tensor, wires: Wires, vectors: int, seed: int) -> None:
    x = torch.rand(vectors, len(conductance), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    plain, first, segment = [], [], []
    for times in _TIMES:
        scaled = {f: getattr(wires, f) * times for f in ("word_line", "bit_line", "driver", "sense")}
        wanted, near = (
            x @ replace(wires, solve=how, **scaled).effective(conductance) for how in ("exact", "first-order")
        )
        for errors, outputs in ((plain, x @ conductance), (first, near)):
            errors.append(float((outputs - wanted).abs().max() / wanted.abs().max()) * 100)
        segment.append(scaled["bit_line"])
    axes.loglog(segment, plain, "o-", color="#D55E00", lw=1.4, ms=4, label="ideal wires")
    axes.loglog(segment, first, "s-", color="#0072B2", lw=1.4, ms=4, label="first order")
    axes.set(
        xlabel="bit-line segment (Ω)",
        ylabel="largest error (% of largest output)",
        title="compared with the exact solution",
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", lw=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=8)
