"""Accuracy of many chips over time."""

from __future__ import annotations

import csv
import io
import itertools
import math
import numbers
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from phasegrad import argument_checks as checks
from phasegrad.inference.compensation import apply_compensation, check_compensation
from phasegrad.inference.programming import Seeds, advance, program_copy
from phasegrad.nn.layer import require_analog_layers
from phasegrad.nn.start_ranges import warn_start_ranges
from phasegrad.progress import track
from phasegrad.writing import checked_path, write_whole

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


@dataclass(frozen=True)
class Report:
    """Measurements of [`accuracy_over_time`][phasegrad.inference.accuracy_over_time].

    Attributes:
        times: times since programming [s].
        values: return values of ``evaluate``, ``[times, chips]``.
        seed: seed of the chips.
        compensation: granularity of the drift compensation, or ``None`` without compensation.
    """

    times: tuple[float, ...]
    values: np.ndarray
    seed: int
    compensation: str | None

    def __post_init__(self) -> None:
        try:
            values = np.asarray(self.values)
        except (TypeError, ValueError, RuntimeError):  # tensors that numpy cannot read, ragged lists
            values = np.empty(0)
        if values.ndim != 2 or values.dtype.kind not in "fiu" or len(values) != len(_check_times(self.times)):
            raise ValueError(
                f"Report: values = {checks.shown(self.values)}; they must be numbers [times, chips], one row for each "
                f"of the times = {self.times}"
            )
        object.__setattr__(self, "values", values)

    @property
    def chips(self) -> int:
        """Number of chips."""
        return self.values.shape[1]

    def mean(self) -> np.ndarray:
        """Mean over chips at each time."""
        return self.values.mean(1)

    def sd(self) -> np.ndarray:
        """Sample standard deviation over chips at each time (0 for a single chip)."""
        return self.values.std(1, ddof=1) if self.chips > 1 else np.zeros(len(self.times))

    def quantile(self, q: float) -> np.ndarray:
        """Quantile over chips at each time."""
        return np.quantile(self.values, q, axis=1)

    def rows(self) -> list[dict[str, float]]:
        """One dictionary per time: ``time_s``, ``mean``, ``sd``, ``p05``, ``p50``, ``p95``, ``chips``."""
        columns = (self.mean(), self.sd(), *(self.quantile(q) for q in (0.05, 0.5, 0.95)))
        names = ("mean", "sd", "p05", "p50", "p95")
        return [
            {"time_s": t, **{n: float(c[i]) for n, c in zip(names, columns, strict=True)}, "chips": self.chips}
            for i, t in enumerate(self.times)
        ]

    def __str__(self) -> str:
        head = f"{'time':>10}  {'mean':>9}  {'sd':>9}  {'5 %':>9}  {'median':>9}  {'95 %':>9}"
        lines = [
            f"{format_time(r['time_s']):>10}  {r['mean']:9.4f}  {r['sd']:9.4f}  {r['p05']:9.4f}  {r['p50']:9.4f}  "
            f"{r['p95']:9.4f}"
            for r in self.rows()
        ]
        how = f"compensated per {self.compensation}" if self.compensation else "not compensated"
        return "\n".join([f"{self.chips} chip(s), seed {self.seed}, {how}", head, "-" * len(head), *lines])

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one row per time and chip, ``time_s, chip, value``, completely or not at all.

        Raises:
            TypeError: ``path`` is no path.
            OSError: ``path`` is a folder, its folder does not exist, or the file could not be written; an existing
                file is unchanged.
        """
        file, text = checked_path(path, "to_csv"), io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(("time_s", "chip", "value"))
        for time, chips in zip(self.times, self.values, strict=True):
            writer.writerows((time, chip, float(value)) for chip, value in enumerate(chips))
        write_whole(file, text.getvalue())

    def plot(self, path: str | os.PathLike[str] | None = None, *, label: str = "analog", **options: Any) -> Any:
        """Draw the mean and the 5th to 95th percentile over time; options as for ``phasegrad.plot.over_time``."""
        from phasegrad.plot import over_time  # plot is the layer above, so it is imported only to draw

        return over_time({label: self}, path, **options)


def accuracy_over_time(
    net: nn.Module,
    evaluate: Callable[[nn.Module], float],
    times: Sequence[float] = (1.0, 3600.0, 86_400.0, 2.6e6, 3.15e7),
    *,
    chips: int = 25,
    seed: int = 0,
    compensation: str | None = "tile",
    temperature: float | None = None,
    progress: bool = True,
) -> Report:
    """Program many chips, age each one, and evaluate it at every time.

    Args:
        net: a converted net; neither it nor torch's generator is modified.
        evaluate: ``chip -> number``, such as the accuracy on a test set.
        times: times since programming [s], in increasing order.
        chips: number of chips.
        seed: seed of the chips; chip ``i`` is a function of the net, ``seed`` and ``i``.
        compensation: drift compensation before each evaluation, per ``"tile"``, ``"column"`` or ``"layer"``, or
            ``None``.
        temperature: temperature of the chips from programming on [K]; ``None`` for the temperature at which the laws
            of their devices were measured.
        progress: whether to show progress: a bar on a terminal, a line every half minute elsewhere.

    Returns:
        A [`Report`][phasegrad.inference.Report]: ``print`` it, ``.plot(path)`` it, ``.to_csv(path)``.

    Warns:
        UncalibratedWarning: layers were never calibrated, so their converter ranges are start values.

    Raises:
        ValueError: the net has no analog layer or a non-finite weight, ``times`` are negative or not in increasing
            order, ``chips`` is below 1, or ``evaluate`` returns a value that is not finite.
    """
    times, chips = _check_times(times), checks.integer("accuracy_over_time", "chips", chips, 1)
    seed = checks.seed("accuracy_over_time", seed)
    checks.function("accuracy_over_time", "evaluate", evaluate, "chip -> number")
    checks.flag("accuracy_over_time", "progress", progress)
    if compensation is not None:
        check_compensation("accuracy_over_time", compensation)
    require_analog_layers(net, "accuracy_over_time")
    warn_start_ranges(net, "accuracy_over_time")
    values = np.empty((len(times), chips))
    with torch.random.fork_rng(), track(values.size, unit="read", shown=progress) as bar:
        for i in range(chips):
            chip_seed = int(np.random.SeedSequence([seed, i]).generate_state(1, np.uint64)[0] >> np.uint64(1))
            torch.manual_seed(chip_seed)
            chip, seeds = program_copy(net, chip_seed), Seeds(chip_seed + 1)
            for j, time in enumerate(times):
                bar.describe(f"chip {i + 1}/{chips}, {format_time(time)}")
                advance(chip, time, temperature)
                if compensation is not None:
                    apply_compensation(chip, compensation, seeds)
                where = f" for chip {i} at {format_time(time)}"
                values[j, i] = checks.result("accuracy_over_time", "evaluate", evaluate(chip), where)
                bar.update()
    return Report(times, values, seed, compensation)


def _check_times(times: object) -> tuple[float, ...]:
    caller, rule = "accuracy_over_time", "pass at least one time [s], such as times = (1.0, 3600.0)"
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
