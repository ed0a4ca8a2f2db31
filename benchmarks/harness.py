"""Side-by-side timing, and the format of figures."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

import phasegrad


@dataclass(frozen=True)
class Figure:
    """One figure: ``value`` in ``unit``, the value of its baseline, their ratio, and the target."""

    name: str
    value: float
    unit: str
    baseline: str | None
    baseline_value: float | None
    ratio: float | None
    target: str

    def __str__(self) -> str:
        text = f"{self.name:<48} {self.value:10.3f} {self.unit}"
        if self.ratio is not None:
            text += f"   {self.ratio:6.2f}x of {self.baseline} ({self.baseline_value:.3f} {self.unit})"
        return f"{text}   target {self.target}"


def side_by_side(first: Callable[[], object], second: Callable[[], object], rounds: int) -> tuple[float, float, float]:
    """Time two functions alternately.

    Args:
        first: function to measure.
        second: its baseline.
        rounds: number of pairs of runs, after three warm-up pairs.

    Returns:
        Median times of both [s], and the median ratio of the pairs, which is robust to slow changes in the speed of the
        machine.
    """
    for _ in range(3):
        first(), second()
    pairs = [(_time(first), _time(second)) for _ in range(rounds)]
    a, b = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    return a, b, statistics.median(x / y for x, y in pairs)


def median_time(function: Callable[[], object], rounds: int) -> float:
    """Median time of a function [s], after one warm-up run."""
    function()
    return statistics.median(_time(function) for _ in range(rounds))


def _time(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def machine() -> dict[str, Any]:
    """The machine and software of the measurement."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "backend": phasegrad.backends()["cpu"],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "phasegrad": phasegrad.__version__,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def as_dict(name: str, figures: list[Figure]) -> dict[str, Any]:
    """The result of a benchmark, for JSON."""
    return {"name": name, "machine": machine(), "figures": [asdict(f) for f in figures]}
