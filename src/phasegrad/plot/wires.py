"""What wires take from a tile, in one picture."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phasegrad.crossbar import Wires, solve
from phasegrad.drawing import new_figure

_TIMES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def wire_losses(
    conductance: Tensor, wires: Wires, path: str | os.PathLike[str] | None = None, *, vectors: int = 64, seed: int = 0
) -> Any:
    """Draw the voltage over each device, and how far off outputs are without wires and to first order.

    Args:
        conductance: of one array ``[rows, columns]`` [S].
        wires: its wires; the right of the picture multiplies their resistances by 0.01 to 10.
        path: where to write the picture, or ``None``.
        vectors: random inputs, uniform in [0, 1], for the errors.
        seed: seed of their draw.

    Returns:
        The matplotlib figure: on the left the voltage over each device while all word lines are driven with 1 V; on the
        right the largest of an output relative to the largest output, of the plain product and of the first order.
    """
    figure = new_figure(10.0, 3.8)
    crossing, errors = figure.subplots(1, 2, width_ratios=(1.0, 1.15))
    found = solve(conductance, torch.ones(len(conductance)), wires)
    image = crossing.imshow((found.word_line - found.bit_line).numpy(), cmap="viridis", interpolation="nearest")
    crossing.set(xlabel="column (drivers left)", ylabel="row", title="voltage over each device (V), of 1 V")
    figure.colorbar(image, ax=crossing)
    _errors(errors, conductance.double(), wires, vectors, seed)
    if path is not None:
        figure.savefig(Path(path), dpi=200)
    return figure


def _errors(axes: Any, conductance: Tensor, wires: Wires, vectors: int, seed: int) -> None:
    x = torch.rand(vectors, len(conductance), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    plain, first, segment = [], [], []
    for times in _TIMES:
        scaled = {f: getattr(wires, f) * times for f in ("word_line", "bit_line", "driver", "sense")}
        want, near = (
            x @ replace(wires, solve=how, **scaled).effective(conductance) for how in ("exact", "first-order")
        )
        for errors, got in ((plain, x @ conductance), (first, near)):
            errors.append(float((got - want).abs().max() / want.abs().max()) * 100)
        segment.append(scaled["bit_line"])
    axes.loglog(segment, plain, "o-", color="#D55E00", lw=1.4, ms=4, label="ideal wires")
    axes.loglog(segment, first, "s-", color="#0072B2", lw=1.4, ms=4, label="first order")
    axes.set(xlabel="bit-line segment (Ω)", ylabel="largest error (% of largest output)", title="against the exact")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", lw=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=8)
