"""Results of ``years.py``: intervals, table, files and picture."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _report import aligned

from phasegrad.inference import format_time

Row = dict[str, Any]
Errors = Mapping[tuple[str, str], np.ndarray]
"""Errors ``[nets, times, chips]`` by training and compensation."""
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # 97.5 %, 1 to 9 degrees of freedom
_COLOURS = ("#8d8d8d", "#e8a33d", "#d1495b", "#00798c")


def interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of ``[nets, chips]``, from Student's t.

    Chips of one net share its training, so the means of nets are the independent values. A single net says nothing
    about other trainings: its interval is that of chips alone.
    """
    units = values.mean(1) if len(values) > 1 else values[0]
    if len(units) < 2:
        return float(units.mean()), float(units.mean())
    student = _STUDENT[len(units) - 2] if len(units) <= len(_STUDENT) + 1 else 1.96
    half = student * units.std(ddof=1) / len(units) ** 0.5
    return float(units.mean() - half), float(units.mean() + half)


def summary(data: str, errors: Errors, times: Sequence[float]) -> list[Row]:
    """One row per training, compensation and time."""
    rows = []
    for (training, compensation), values in errors.items():
        for time, at in zip(times, values.transpose(1, 0, 2), strict=True):
            low, high = interval(at)
            rows.append({
                "data": data, "training": training, "compensation": compensation, "time_s": time,
                "method": f"{data}, {training}, compensation {compensation}", "mean": float(at.mean()),
                "sd": float(at.std(ddof=1)) if at.size > 1 else 0.0, "low": low, "high": high, "worst": float(at.max()),
                "chips": at.size, "by_net": [round(float(mean), 6) for mean in at.mean(1)],
            })  # fmt: skip
    return rows


def savings(data: str, errors: Errors, times: Sequence[float], better: str, than: Iterable[str]) -> list[Row]:
    """By how much a training lowers the error against others with the same compensation, net by net."""
    rows = []
    others = [(training, kind) for training, kind in errors if training in than]
    for (training, kind), (i, time) in itertools.product(others, enumerate(times)):
        saved = errors[training, kind][:, i] - errors[better, kind][:, i]
        low, high = interval(saved)
        rows.append({
            "data": data, "training": better, "than": training, "compensation": kind, "time_s": time,
            "saved": float(saved.mean()), "low": low, "high": high,
        })  # fmt: skip
    return rows


def table(rows: Sequence[Row], exact: Mapping[str, float]) -> str:
    """Test errors in percent, with their 95 % intervals."""
    lines = []
    for data, error in exact.items():
        cells = [["training", "compensation", *map(format_time, _different(rows, "time_s"))]]
        for training, kind, chosen in _curves(rows, data):
            shown = [f"{100 * r['mean']:.2f} ({100 * r['low']:.2f}-{100 * r['high']:.2f})" for r in chosen]
            cells.append([training, kind, *shown])
        lines += [f"{data}: test error (%) and its 95 % interval; float {100 * error:.2f}", *aligned(cells), ""]
    return "\n".join(lines).rstrip()


def write(folder: Path, rows: list[Row], content: Mapping[str, Any]) -> list[Path]:
    """Write result.json with rows and other content, result.csv and result.png; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"result.{ending}" for ending in ("json", "csv", "png")]
    paths[0].write_text(json.dumps({**content, "rows": rows}, indent=1) + "\n")
    with paths[1].open("w", newline="") as file:
        writer = csv.DictWriter(
            file, [key for key in rows[0] if key not in ("method", "by_net")], extrasaction="ignore"
        )
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, content["float"], paths[2])
    return paths


def draw(rows: Sequence[Row], exact: Mapping[str, float], path: Path) -> None:
    """Draw the error over time: a colour per training, a line style per compensation, the 95 % interval shaded."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(exact), figsize=(4.7 * len(exact) + 2.2, 4.4), squeeze=False)
    colours = dict(zip(_different(rows, "training"), itertools.cycle(_COLOURS), strict=False))
    styles = dict(zip(_different(rows, "compensation"), itertools.cycle(("-", "--", ":", "-.")), strict=False))
    for axis, (data, error) in zip(axes[0], exact.items(), strict=True):
        for training, kind, chosen in _curves(rows, data):
            times = [row["time_s"] for row in chosen]
            mean, low, high = (np.array([100 * row[key] for row in chosen]) for key in ("mean", "low", "high"))
            axis.plot(times, mean, styles[kind], color=colours[training], marker=".", label=f"{training} / {kind}")
            axis.fill_between(times, low, high, color=colours[training], alpha=0.15, linewidth=0)
        axis.axhline(100 * error, color="black", linewidth=0.8, label="float")
        axis.set(
            xscale="log",
            title=data,
            xlabel="time since programming (s)",
            ylabel="test error (%)",
            ylim=(90 * error, None),
        )
        axis.grid(alpha=0.25)
    beside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "title": "training / compensation"}
    axes[0][-1].legend(**beside, fontsize=8, title_fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _curves(rows: Sequence[Row], data: str) -> list[tuple[str, str, list[Row]]]:
    """The rows of each training and compensation."""
    keys = itertools.product(_different(rows, "training"), _different(rows, "compensation"))
    found = [(*key, [r for r in rows if (r["data"], r["training"], r["compensation"]) == (data, *key)]) for key in keys]
    return [curve for curve in found if curve[2]]


def _different(rows: Sequence[Row], name: str) -> list[Any]:
    return list(dict.fromkeys(row[name] for row in rows))
