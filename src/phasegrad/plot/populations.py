"""The chips of a population over time, and the yield against a threshold."""

from __future__ import annotations

import os
from typing import Any, Protocol

import numpy as np

from phasegrad.drawing import new_figure, save_figure
from phasegrad.plot.accuracy import label_time, time_text

_COLOURS = ("#0072B2", "#009E73", "#E69F00", "#D55E00", "#CC79A7")


class Population(Protocol):
    """Values of many chips, such as [`Report`][phasegrad.inference.Report]."""

    @property
    def times(self) -> tuple[float, ...]:
        """Times since programming [s]."""
        ...

    @property
    def values(self) -> np.ndarray:
        """Values ``[times, chips]``."""
        ...

    @property
    def chips(self) -> int:
        """Number of chips."""
        ...

    def mean(self) -> np.ndarray:
        """Mean over chips at each time."""
        ...

    def worst(self) -> np.ndarray:
        """The lowest value at each time."""
        ...

    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """Interval of the mean at each time."""
        ...

    def yield_above(self, threshold: float) -> np.ndarray:
        """The fraction of chips with at least this value, at each time."""
        ...

    def yield_interval(self, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """Interval of this fraction at each time."""
        ...


def population(
    report: Population,
    path: str | os.PathLike[str] | None = None,
    *,
    threshold: float | None = None,
    ylabel: str = "accuracy",
    percent: bool = True,
    title: str | None = None,
) -> Any:
    """Draw every chip over time with the mean, its 95 % interval and the worst; and the yield against a threshold.

    Args:
        report: a report of at least 2 chips, such as [`Report`][phasegrad.inference.Report].
        path: path of the image file, whose suffix selects the format; ``None`` to write none.
        threshold: a value to mark in both panels, with the yield at each time in the legend; ``None`` for no mark.
        ylabel: label of the values.
        percent: whether to show values, which are fractions, in percent.
        title: title, or ``None``.

    Returns:
        The matplotlib figure.

    Raises:
        ValueError: there is a single chip.
    """
    if report.chips < 2:
        raise ValueError(f"population: chips = {report.chips}; measure at least 2 chips, or draw report.plot()")
    figure: Any = new_figure(8.6, 3.7)
    over_time, passing = figure.subplots(1, 2)
    factor, label = (100.0, f"{ylabel} (%)") if percent else (1.0, ylabel)
    _draw_chips(over_time, report, factor)
    _draw_yield(passing, report, factor, threshold)
    if threshold is not None:
        over_time.axhline(threshold * factor, color="0.25", lw=1.0, ls=(0, (5, 3)), label="threshold")
        passing.axvline(threshold * factor, color="0.25", lw=1.0, ls=(0, (5, 3)))
    label_time(over_time, np.asarray(report.times))
    over_time.set_ylabel(label)
    over_time.legend(frameon=False, fontsize=8)
    passing.set_xlabel(f"threshold: {label}")
    passing.set_ylabel(f"yield of {report.chips} chips (%)")
    for axes in (over_time, passing):
        axes.grid(axis="y", color="0.9", lw=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(title, fontsize=10)
    if path is not None:
        save_figure(figure, path)
    return figure


def _draw_chips(axes: Any, report: Population, factor: float) -> None:
    times = np.maximum(report.times, 1e-3)
    for chip in report.values.T * factor:
        axes.plot(times, chip, color="0.72", lw=0.6, alpha=max(0.15, min(1.0, 20 / report.chips)))
    axes.plot(times, report.worst() * factor, "v--", ms=4, lw=1.0, color=_COLOURS[3], label="worst chip")
    low, high = (report.mean() - report.interval()[0]), (report.interval()[1] - report.mean())
    errors = np.maximum(np.stack((low, high)), 0.0) * factor
    axes.errorbar(times, report.mean() * factor, errors, fmt="o-", ms=4.5, lw=1.4, capsize=3, color=_COLOURS[0],
                  label="mean, 95 % interval")  # fmt: skip


def _draw_yield(axes: Any, report: Population, factor: float, threshold: float | None) -> None:
    known = np.unique(report.values)
    margin = 0.08 * max(known[-1] - known[0], 1e-9)
    thresholds = np.linspace(known[0] - margin, known[-1] + margin, 300)
    fractions = 100.0 * np.stack([report.yield_above(t) for t in thresholds])
    bounds = [100.0 * np.stack(ends) for ends in zip(*(report.yield_interval(t) for t in thresholds), strict=True)]
    shown = sorted({0, len(report.times) // 2, len(report.times) - 1})
    for colour, i in zip(_COLOURS, shown, strict=False):
        text = time_text(report.times[i])
        if threshold is not None:
            text += f": {report.yield_above(threshold)[i]:.0%}"
        axes.plot(thresholds * factor, fractions[:, i], lw=1.4, color=colour, label=text)
        axes.fill_between(thresholds * factor, bounds[0][:, i], bounds[1][:, i], color=colour, alpha=0.13, lw=0)
    axes.set_ylim(-3, 103)
    axes.legend(frameon=False, fontsize=8, loc="upper right")
