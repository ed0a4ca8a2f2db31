"""What each layer costs on a chip, and how many digital layers reach the target."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from phasegrad.drawing import new_figure, save_figure

_KEPT, _ANALOG = "#D55E00", "#0072B2"


def layer_costs(
    sensitivity: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    ylabel: str = "accuracy",
    percent: bool = True,
    title: str | None = None,
) -> Any:
    """Draw the cost of each layer alone on the chip, and the value as the costliest layers become digital.

    Args:
        sensitivity: a [`Sensitivity`][phasegrad.inference.Sensitivity].
        path: path of the image file, whose suffix selects the format; ``None`` to write none.
        ylabel: label of the values.
        percent: whether to show values, which are fractions, in percent.
        title: title, or ``None``.

    Returns:
        The matplotlib figure.
    """
    rows, factor = sensitivity.rows(), 100.0 if percent else 1.0
    figure: Any = new_figure(8.6, max(2.6, 1.3 + 0.28 * len(rows)))
    costs, path_axes = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_costs(costs, rows, factor)
    unit = " (points)" if percent else ""
    costs.set_xlabel(f"{ylabel} lost by the layer alone{unit}")
    _draw_path(path_axes, sensitivity, factor)
    path_axes.set_ylabel(f"{ylabel} (%)" if percent else ylabel)
    for axes in (costs, path_axes):
        axes.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(title, fontsize=10)
    if path is not None:
        save_figure(figure, path)
    return figure


def _draw_costs(axes: Any, rows: list[dict[str, Any]], factor: float) -> None:
    places = np.arange(len(rows))[::-1]
    costs = np.array([row["cost"] for row in rows])
    ends = np.array([[row["low"], row["high"]] for row in rows])
    errors = (
        None if np.isnan(ends).any() else np.maximum(np.stack((costs - ends[:, 0], ends[:, 1] - costs)), 0) * factor
    )
    colours = [_KEPT if row["digital"] else _ANALOG for row in rows]
    axes.barh(places, costs * factor, xerr=errors, color=colours, height=0.66, error_kw={"lw": 1.0, "capsize": 2})
    axes.set_yticks(places, [row["layer"] for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.axvline(0.0, color="0.4", lw=0.8)
    axes.grid(axis="x", color="0.9", lw=0.8)
    axes.set_axisbelow(True)


def _draw_path(axes: Any, sensitivity: Any, factor: float) -> None:
    means = sensitivity.path.mean(1) * factor
    axes.plot(range(len(means)), means, "o-", ms=4.5, lw=1.4, color=_KEPT, label="chips")
    axes.axhline(sensitivity.reference * factor, color="0.25", lw=1.0, ls=(0, (5, 3)), label="digital")
    axes.axhline(sensitivity.target * factor, color="0.55", lw=1.0, ls=(0, (1, 2)), label="target")
    axes.set_xticks(range(len(means)))
    axes.set_xlim(-0.4, len(means) - 0.6 if len(means) > 1 else 0.4)
    axes.set_xlabel("layers kept digital")
    axes.grid(axis="y", color="0.9", lw=0.8)
    axes.legend(frameon=False, fontsize=8)
