"""Measurements and the laws that were fitted to them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from phasegrad.devices import Fit, Panel
from phasegrad.drawing import new_figure, save_figure

_MOST = 4000
"""Points that are drawn; more would hide each other."""


def fitted(fit: Fit, path: str | os.PathLike[str] | None = None) -> Any:
    """Draw the measurements of a fit, the fitted laws, and the range that 90 % of new measurements are expected in.

    Args:
        fit: result of ``phasegrad.devices.fit``.
        path: path of the image file, or ``None`` to write none.

    Returns:
        The matplotlib figure, with one panel per law.
    """
    figure = new_figure(3.6 * len(fit.panels), 3.2)
    for axes, panel in zip(figure.subplots(1, len(fit.panels), squeeze=False)[0], fit.panels, strict=True):
        _draw(axes, panel)
    if path is not None:
        save_figure(figure, path)
    return figure


def _draw(axes: Any, panel: Panel) -> None:
    every = max(1, len(panel.x) // _MOST)
    faint = 0.6 if len(panel.x) < 300 else 0.25
    axes.plot(panel.x[::every], panel.y[::every], ".", ms=2.5, color="0.45", alpha=faint, label="measured")
    if panel.band is not None:
        axes.fill_between(panel.line_x, *panel.band, color="#0072B2", alpha=0.18, lw=0, label="fit, 90 %")
    axes.plot(panel.line_x, panel.line, color="#0072B2", lw=1.6, label="fit")
    axes.set(xlabel=panel.xlabel, ylabel=panel.ylabel, title=panel.title)
    if panel.logarithmic:
        axes.set_xscale("log")
    low, high = np.quantile(panel.y, [0.002, 0.998])
    room = 0.15 * (high - low)
    axes.set_ylim(low - room, high + room)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", lw=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=8, markerscale=2.5)
