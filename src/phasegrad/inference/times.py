"""Times since programming: their checks, and how they are printed."""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from phasegrad import argument_checks as checks

_UNITS = ((3.15e7, "year"), (2.59e6, "month"), (86_400.0, "day"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


def format_time(seconds: float) -> str:
    """A duration [s] in its largest unit, rounded to two digits.

    Examples:
        >>> [format_time(t) for t in (0.0, 1.0, 90.0, 3600.0, 86_400.0, 2.6e6, 3.15e7)]
        ['0 s', '1 s', '1.5 min', '1 h', '1 day', '1 month', '1 year']
    """
    seconds = checks.number("format_time", "seconds", seconds, unit="s")
    size, unit = next((u for u in _UNITS if seconds >= u[0]), (1.0, "s"))
    amount = f"{seconds / size:.2g}" if seconds / size < 9.95 else f"{seconds / size:.0f}"
    plural = "s" if amount != "1" and unit in ("year", "month", "day") else ""
    return f"{amount} {unit}{plural}"


def check_times(caller: str, times: object) -> tuple[float, ...]:
    """Times [s] as floats.

    Raises:
        TypeError: they are not an iterable of numbers.
        ValueError: there is none, one is negative or not finite, or they decrease.
    """
    rule = "pass at least one time [s], such as times = (1.0, 3600.0)"
    scalar = isinstance(times, torch.Tensor) and times.dim() == 0
    if not isinstance(times, Iterable) or scalar or isinstance(times, (str, bytes, Mapping)):
        raise TypeError(f"{caller}: times = {checks.shown(times)}; {rule}")
    found: list[Any] = [t.item() if isinstance(t, torch.Tensor) and t.dim() == 0 else t for t in times]
    if not all(isinstance(t, numbers.Real) and not isinstance(t, bool) for t in found):
        raise TypeError(f"{caller}: times = {checks.shown(times)}; they must be numbers [s]")
    known = tuple(float(t) for t in found)
    if not known or any(not (math.isfinite(t) and t >= 0) for t in known):
        raise ValueError(f"{caller}: times = {known}; pass at least one time, all finite and not negative")
    if any(b < a for a, b in itertools.pairwise(known)):
        raise ValueError(f"{caller}: times = {known}; they must not decrease, because a chip only ages")
    return known
