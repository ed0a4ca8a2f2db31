"""Result files and figures of programming experiments."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#404040")
"""Okabe and Ito's, which are distinguishable with any colour vision."""


def write(result: dict[str, Any], folder: Path) -> None:
    """Write ``result.json``, with innermost lists on one line, and print its rows."""
    folder.mkdir(parents=True, exist_ok=True)
    text = re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), json.dumps(result, indent=2))
    (folder / "result.json").write_text(text + "\n")
    for row in result["rows"]:
        others = ", ".join(f"{k} {v:.4g}" for k, v in row.items() if k not in ("method", "mean", "sd"))
        print(f"{row['method']}: {row['mean']:.2%} ± {row['sd']:.2%} ({others})")


def binned(asked: Tensor, errors: Tensor, bins: int = 10) -> tuple[list[float], list[float]]:
    """Middles of bins of the magnitude of weights, and the rms error in each."""
    which = (asked.abs() * bins).long().clamp(max=bins - 1)
    number = torch.bincount(which.flatten(), minlength=bins)
    total = torch.bincount(which.flatten(), errors.double().square().flatten(), minlength=bins)
    found = [(i + 0.5, float(total[i] / number[i]) ** 0.5) for i in range(bins) if number[i] > 20]
    return [middle / bins for middle, _ in found], [rms for _, rms in found]


def draw_errors(runs: dict[str, list[dict[str, Any]]], band: tuple[float, float], what: str, path: Path) -> None:
    """Draw the error of what is stored, case by case, next to the published band, and against the weight."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11.0, 4.2), width_ratios=(1.0, 1.1), layout="constrained")
    left.axvspan(100 * band[0], 100 * band[1], color="#e4e4e4", zorder=0)
    left.set_title("grey: published", loc="right", fontsize=9)
    for i, (name, found) in enumerate(runs.items()):
        colour = COLOURS[i % len(COLOURS)]
        left.barh(name, 100 * statistics.mean(r["stored"] for r in found), color=colour, height=0.6)
        middles, rms = binned(found[0]["asked"], found[0]["errors"])
        right.plot(middles, [100 * r for r in rms], "o-", color=colour, label=name, markersize=4)
    left.invert_yaxis()
    left.set_xlabel(f"{what} [% of the largest weight]")
    right.set_xlabel("magnitude of the weight")
    right.set_ylabel("rms error [% of the largest weight]")
    right.set_ylim(bottom=0.0)
    right.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
