"""Figure of the capacitors of columns whose inputs are pulse durations."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from phasegrad.crossbar import Integrator
from phasegrad.drawing import new_figure, save_figure

_COLOURS = ("#404040", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")


def charges(
    integrators: Mapping[str, Integrator], path: str | os.PathLike[str] | None = None, *, lines: int = 64,
    vectors: int = 200, seed: int = 0,
) -> Any:  # fmt: skip
    """Draw the charge of a column's capacitor during a window, and its final charge against the product.

    Args:
        integrators: integrators by label.
        path: path of the image file, or ``None`` to write none.
        lines: number of word lines of the column, with random weights and durations.
        vectors: number of random inputs in the right panel.
        seed: seed of weights and inputs.

    Returns:
        The matplotlib figure: left, the charge over the window for one input; right, the final charge for all inputs.
    """
    generator = torch.Generator().manual_seed(seed)
    weight = torch.rand(1, lines, generator=generator) * 2.0 - 1.0
    x = torch.rand(vectors, lines, generator=generator) * 2.0 - 1.0
    x = x[F.linear(x, weight).flatten().argsort()]
    figure = new_figure(9.0, 3.6)
    course, ends = figure.subplots(1, 2)
    for (label, integrator), colour in zip(integrators.items(), _COLOURS, strict=False):
        _draw(course, ends, integrator, x, weight, label, colour)
    course.set(xlabel="time (windows)", ylabel="charge (one full cell for one window)", title="one input")
    ends.set(xlabel="product of amplitudes", ylabel="charge at the end", title=f"{vectors} inputs")
    for axes in (course, ends):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92", lw=0.8)
        axes.set_axisbelow(True)
    course.legend(frameon=False, fontsize=8)
    if path is not None:
        save_figure(figure, path)
    return figure


def _draw(course: Any, ends: Any, integrator: Integrator, x: Tensor, weight: Tensor, label: str, colour: str) -> None:
    over_time = integrator.charge_over_time(x, weight)[..., 0]
    time = torch.linspace(0.0, 1.0, len(over_time))
    course.plot(time.numpy(), over_time[:, -1].numpy(), color=colour, lw=1.4, label=label)
    ends.plot(F.linear(x, weight).flatten().numpy(), over_time[-1].numpy(), ".", color=colour, ms=3.5)
