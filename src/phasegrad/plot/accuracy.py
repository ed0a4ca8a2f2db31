"""Accuracy of chips against time since programming."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from phasegrad.drawing import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Okabe and Ito's colours are distinguishable with any colour vision; the markers are in grey too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_TICKS = ((1.0, "1 s"), (60.0, "1 min"), (3600.0, "1 h"), (86_400.0, "1 d"), (2.592e6, "1 mo"), (3.15e7, "1 y"))


class Curve(Protocol):
    """Values of many chips at several times, such as [`Report`][phasegrad.inference.Report]."""

    @property
    def times(self) -> tuple[float, ...]:
        """Times since programming [s]."""
        ...

    def mean(self) -> np.ndarray:
        """Mean over chips at each time."""
        ...

    def quantile(self, q: float) -> np.ndarray:
        """Quantile over chips at each time."""
        ...


def over_time(
    reports: Mapping[str, Curve],
    path: str | os.PathLike[str] | None = None,
    *,
    reference: float | None = None,
    reference_label: str = "float",
    ylabel: str = "accuracy",
    percent: bool = True,
    title: str | None = None,
    ax: Axes | None = None,
) -> Any:
    """Draw the mean over chips against time, with a band from the 5th to the 95th percentile.

    Args:
        reports: curves by label.
        path: path of the image file, whose suffix selects the format; ``None`` to write none.
        reference: value for comparison, drawn as a horizontal line.
        reference_label: label of the reference.
        ylabel: label of the values.
        percent: whether to show values, which are fractions, in percent.
        title: title, or ``None``.
        ax: axes to draw into; ``None`` for a new figure.

    Returns:
        The matplotlib figure.
    """
    figure: Any = ax.figure if ax is not None else new_figure(6.4, 4.0)
    axes: Any = ax if ax is not None else figure.subplots()
    factor = 100.0 if percent else 1.0
    shift = _time_factors(len(reports))
    for i, (label, report) in enumerate(reports.items()):
        colour, times = _COLOURS[i % len(_COLOURS)], np.maximum(report.times, 1e-3) * shift[i]
        low, high = (report.quantile(q) * factor for q in (0.05, 0.95))
        axes.fill_between(times, low, high, color=colour, alpha=0.15, linewidth=0)
        marker = _MARKERS[i % len(_MARKERS)]
        axes.plot(times, report.mean() * factor, marker, ls="-", ms=4.5, lw=1.4, color=colour, label=label)
    if reference is not None:
        axes.axhline(reference * factor, color="0.25", lw=1.0, ls=(0, (5, 3)), label=reference_label)
    _label_axes(axes, reports, f"{ylabel} (%)" if percent else ylabel, title)
    if path is not None:
        save_figure(figure, path)
    return figure


def _time_factors(count: int) -> np.ndarray:
    """Small factors of time that keep the points of different curves from overlapping."""
    return 1.12 ** (np.arange(count) - (count - 1) / 2)


def _label_axes(axes: Any, reports: Mapping[str, Curve], ylabel: str, title: str | None) -> None:
    label_time(axes, np.concatenate([r.times for r in reports.values()]))
    axes.set_ylabel(ylabel)
    if title:
        axes.set_title(title, fontsize=10)
    axes.grid(axis="y", color="0.9", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)


def label_time(axes: Any, times: np.ndarray) -> None:
    """Make the x axis one of times since programming [s], with ticks at a second, a minute, ... a year."""
    axes.set_xscale("log")
    ticks = [(t, name) for t, name in _TICKS if 0.5 * times.min() <= t <= 2.0 * times.max()]
    if len(ticks) >= 2:
        axes.set_xticks([t for t, _ in ticks], [name for _, name in ticks])
        axes.minorticks_off()
    axes.set_xlabel("time since programming")


def time_text(seconds: float) -> str:
    """A time [s] in the unit of the last tick before it, such as ``5 y``."""
    size, name = next(((t, name) for t, name in reversed(_TICKS) if seconds >= t), (1.0, "1 s"))
    return f"{seconds / size:.2g} {name.split()[1]}"
