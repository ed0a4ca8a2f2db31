"""Tables, files and progress lines of the examples that measure accuracy over time."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import phasegrad as pg
from phasegrad.crossbar import Adc, CalibratedRange
from phasegrad.inference import Report, format_time

TIMES = (1.0, 3600.0, 86_400.0, 2.6e6, 3.15e7)
"""One second, hour, day, month and year [s]."""


def standard_tile(pairs: int = 1) -> pg.Hardware:
    """The standard PCM inference tile, with the ADC range of each layer calibrated on data.

    The preset range of 10 suits layers with hundreds of inputs; smaller sums would use few of the 256 levels.

    Args:
        pairs: device pairs per weight, which are programmed identically and summed.
    """
    hardware = pg.presets.pcm_inference()
    cell, adc = hardware.cell, Adc(bits=8, range=CalibratedRange())
    if pairs > 1:
        cell = pg.cells.SignificancePairs(device=cell.device, significances=(1.0,) * pairs)
    return dataclasses.replace(hardware, cell=cell, adc=adc)


def counted(pairs: int) -> str:
    """A number of pairs, with its noun."""
    return f"{pairs} pair{'s' if pairs > 1 else ''}"


def table(exact: float, reports: Mapping[str, Report], what: str = "accuracy (%)", factor: float = 100.0) -> str:
    """Format mean and standard deviation over chips, with one row per method and one column per time.

    Args:
        exact: value of the float model.
        reports: reports by method.
        what: name of the values, with their unit.
        factor: factor from values to that unit.
    """
    first = next(iter(reports.values()))
    head = ["method", *(format_time(t) for t in first.times)]
    digits = 2 if factor * exact >= 2 else 4
    rows = [["float", f"{exact * factor:.{digits}f}", *[""] * (len(head) - 2)]]
    for name, report in reports.items():
        values = zip(report.mean() * factor, report.sd() * factor, strict=True)
        rows.append([name, *(f"{m:.{digits}f} ± {s:.{digits}f}" for m, s in values)])
    lines = aligned([head, *rows])
    rule = "-" * max(map(len, lines))
    caption = f"{what}, mean ± standard deviation over {first.chips} chips; gdc: global drift compensation"
    return "\n".join([caption, "", lines[0], rule, lines[1], rule, *lines[2:]])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Format rows of cells as lines, with the first column aligned left and the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(f"{c:{'<' if i == 0 else '>'}{w}}" for i, (c, w) in enumerate(zip(r, widths, strict=True)))
        for r in rows
    ]


def write(folder: Path, exact: float, reports: Mapping[str, Report], *, more: Mapping[str, Any] | None = None,
          what: str = "accuracy", **drawing: Any) -> list[Path]:  # fmt: skip
    """Write statistics to report.json and the values of every chip to report.csv, and draw them in report.png.

    Args:
        folder: output folder, created if missing.
        exact: value of the float model.
        reports: reports by method.
        more: further entries of the JSON file.
        what: name of the values, for the axis of the figure and the header of the CSV file.
        **drawing: options of :func:`phasegrad.plot.over_time`.

    Returns:
        The paths written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"report.{ending}" for ending in ("json", "csv", "png")]
    rows = [
        {"method": name, **{key: row[key] for key in ("time_s", "mean", "sd", "p05", "chips")}}
        for name, report in reports.items()
        for row in report.rows()
    ]
    versions = {"phasegrad": pg.__version__, "torch": torch.__version__, "backend": pg.backends()["cpu"]}
    content = {"float": exact, "rows": rows, "command": " ".join(sys.argv), "versions": versions, **(more or {})}
    paths[0].write_text(json.dumps(content, indent=2) + "\n")
    with paths[1].open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("method", "time_s", "chip", what.split()[-1]))
        for name, report in reports.items():
            for moment, chips in zip(report.times, report.values, strict=True):
                writer.writerows((name, moment, i, float(value)) for i, value in enumerate(chips))
    labelled = {legend(name): report for name, report in reports.items()}
    pg.plot.over_time(labelled, paths[2], reference=exact, ylabel=what, **drawing)
    return paths


def legend(method: str) -> str:
    """The name of a method in a picture, without the abbreviations of tables."""
    words = {"hwa": "fine-tuned", "+gdc": " + compensation", "+bn": " + batch norms"}
    for short, long in words.items():
        method = method.replace(short, long)
    return method


class Clock:
    """Prints progress lines with the elapsed time."""

    def __init__(self) -> None:
        self.started = time.perf_counter()

    def say(self, text: str) -> None:
        """Print a line."""
        print(f"[{time.perf_counter() - self.started:5.0f} s] {text}", flush=True)


def at_least(low: int) -> type[int]:
    """Create an argument type for integers of at least ``low``."""

    def integer(text: str) -> int:
        if int(text) < low:
            raise argparse.ArgumentTypeError(f"{text} is below {low}")
        return int(text)

    return integer  # type: ignore[return-value]


def add_evaluation(parser: argparse.ArgumentParser, chips: int) -> None:
    """Add the options of every example that measures accuracy over time."""
    group = parser.add_argument_group("evaluation")
    group.add_argument("--chips", type=at_least(1), default=chips, help="chips per network")
    group.add_argument(
        "--times",
        type=float,
        nargs="+",
        default=list(TIMES),
        metavar="S",
        help="times since programming [s], in increasing order",
    )
    group.add_argument("--seed", type=int, default=0, help="seed of training, chips and noise")
    group.add_argument("--quiet", action="store_true", help="show no progress")


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line and check its times."""
    options = parser.parse_args()
    if options.times != sorted(options.times) or min(options.times) < 0:
        parser.error(f"--times {options.times}: times must be in increasing order and not negative")
    return options
