"""Figure of an experiment."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from reproductions.experiment import Curves

# Okabe and Ito's colours are distinguishable with any colour vision; the first is for the float net.
COLOURS = ("#404040", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

_LETTERS = 50
"""Letters of labels per row of the legend."""


def draw(runs: dict[str, list[Curves]], path: Path) -> None:
    """Draw the mean and range of the accuracy over seeds for each epoch, and every seed after the last epoch.

    Args:
        runs: curves of every seed by method, the float net first.
        path: path of the image file.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    on_training = bool(next(iter(runs.values()))[0].train)
    titles = ["training images"] * on_training + ["test images"]
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(2.0 + 3.6 * len(titles), 3.6), dpi=160, layout="constrained")
        *by_epoch, last = figure.subplots(1, len(titles) + 1, width_ratios=[3.0] * len(titles) + [2.0])
        for axes, title in zip(by_epoch, titles, strict=True):
            of = {m: [c.train if title == "training images" else c.test for c in curves] for m, curves in runs.items()}
            _by_epoch(axes, of)
            axes.set(xlabel="epoch", ylabel=f"accuracy on {title} (%)")
        _last(last, {m: [(c.train or c.test)[-1] for c in curves] for m, curves in runs.items()})
        last.set(xlabel="last epoch, each seed", ylabel=by_epoch[0].get_ylabel())
        handles, labels = by_epoch[0].get_legend_handles_labels()
        rows = 1 + sum(map(len, labels)) // _LETTERS
        columns = -(-len(labels) // rows)
        figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False, fontsize=9)
        figure.savefig(path)


def _by_epoch(axes: Any, runs: dict[str, list[list[float]]]) -> None:
    for (method, seeds), colour in zip(runs.items(), COLOURS, strict=False):
        by_epoch = [[100.0 * a for a in epoch] for epoch in zip(*seeds, strict=True)]
        epochs = range(1, len(by_epoch) + 1)
        axes.plot(epochs, [statistics.mean(e) for e in by_epoch], "o-", ms=3, color=colour, label=method)
        axes.fill_between(epochs, [min(e) for e in by_epoch], [max(e) for e in by_epoch], color=colour, alpha=0.2, lw=0)
    axes.grid(axis="y", color="0.9")


def _last(axes: Any, runs: dict[str, list[float]]) -> None:
    for i, ((_, seeds), colour) in enumerate(zip(runs.items(), COLOURS, strict=False)):
        values = [100.0 * a for a in seeds]
        axes.plot([i] * len(values), values, "o", ms=4, mfc="none", color=colour)
        axes.plot([i - 0.3, i + 0.3], [statistics.mean(values)] * 2, "-", color=colour)
    axes.set_xticks([])  # colours identify the methods, as in the other panels
    axes.set_xlim(-0.6, len(runs) - 0.4)
    axes.grid(axis="y", color="0.9")
