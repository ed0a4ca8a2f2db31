"""Accuracy against the noise and the drift of a device, its memory window and its age."""

from __future__ import annotations

import itertools
import os
from typing import Any

from phasegrad.drawing import new_figure, save_figure
from phasegrad.plot.accuracy import time_text


def design_map(
    designs: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    label: str = "accuracy",
    percent: bool = True,
    title: str | None = None,
) -> Any:
    """Draw noise against drift as a heat map, with a row of panels per window, a column per time, and common colours.

    Args:
        designs: a [`DesignMap`][phasegrad.inference.DesignMap].
        path: path of the image file, whose suffix selects the format; ``None`` to write none.
        label: label of the values.
        percent: whether to show values, which are fractions, in percent.
        title: title, or ``None``.

    Returns:
        The matplotlib figure.
    """
    means = designs.mean() * (100.0 if percent else 1.0)
    rows, columns = len(designs.windows), len(designs.times)
    size = (1.7 + (0.5 + 0.5 * len(designs.drift)) * columns, 1.1 + (0.35 + 0.42 * len(designs.noise)) * rows)
    figure: Any = new_figure(*size)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    image = None
    for i, j in itertools.product(range(rows), range(columns)):
        image = _draw_panel(panels[i, j], means[i, :, :, j], means.min(), means.max(), percent)
        panels[i, j].set_xticks(range(len(designs.drift)), [f"{d:g}" for d in designs.drift])
        panels[i, j].set_yticks(range(len(designs.noise)), [f"{n:g}" for n in designs.noise])
    for axes, time in zip(panels[0], designs.times, strict=True):
        axes.set_title(time_text(time), fontsize=9)
    for axes, window in zip(panels[:, 0], designs.windows, strict=True):
        axes.set_ylabel(("device's window" if window is None else f"window {window:g}") + "\nnoise factor")
    for axes in panels[-1]:
        axes.set_xlabel("drift factor")
    figure.colorbar(image, ax=panels, label=f"{label} (%)" if percent else label, pad=0.01)
    if title:
        figure.suptitle(title, fontsize=10)
    if path is not None:
        save_figure(figure, path)
    return figure


def _draw_panel(axes: Any, values: Any, low: float, high: float, percent: bool) -> Any:
    image = axes.imshow(values, origin="lower", cmap="cividis", vmin=low, vmax=high, aspect="auto")
    axes.tick_params(length=0)
    for (i, row), j in itertools.product(enumerate(values), range(values.shape[1])):
        colour = "white" if row[j] < 0.5 * (low + high) else "black"
        axes.text(j, i, f"{row[j]:.0f}" if percent else f"{row[j]:.3g}", ha="center", va="center", fontsize=7,
                  color=colour)  # fmt: skip
    return image
