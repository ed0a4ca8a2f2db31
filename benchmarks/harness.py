"""Side-by-side timing, and the format of figures."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
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
        "caches": _caches(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "backend": phasegrad.backends()["cpu"],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "phasegrad": phasegrad.__version__,
    }


def _processor() -> str:
    """Name, family, model and stepping of the processor; virtual machines give many processors the same name."""
    try:
        fields = dict(_fields(Path("/proc/cpuinfo").read_text().split("\n\n")[0]))
        numbers = {"family": "cpu family", "model": "model", "stepping": "stepping"}
        found = [f"{short} {fields[name]}" for short, name in numbers.items() if name in fields]
        return ", ".join([fields["model name"], *found])
    except (OSError, KeyError):
        return platform.processor() or platform.machine()


def _fields(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, separator, value = line.partition(":")
        if separator:
            yield name.strip(), value.strip()


def _caches() -> dict[str, str]:
    """Size of each cache of the first core, shared ones included, such as ``{"L1d": "32K", "L2": "1024K"}``."""
    sizes = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        sizes[f"L{level}" + {"Data": "d", "Instruction": "i"}.get(kind, "")] = size
    return sizes


def as_dict(name: str, figures: list[Figure]) -> dict[str, Any]:
    """The result of a benchmark, for JSON."""
    return {"name": name, "machine": machine(), "figures": [asdict(f) for f in figures]}
