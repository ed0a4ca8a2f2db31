"""What a population of chips measured over time."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from phasegrad import argument_checks as checks
from phasegrad.inference.confidence import STATISTICS, bootstrap_interval, proportion_interval
from phasegrad.inference.tables import write_csv
from phasegrad.inference.times import check_times, format_time


def seed_of_chip(seed: int, chip: int) -> int:
    """The seed of one chip of a population."""
    return int(np.random.SeedSequence([seed, chip]).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass(frozen=True)
class Report:
    """Measurements of [`accuracy_over_time`][phasegrad.inference.accuracy_over_time].

    Attributes:
        times: times since programming [s].
        values: return values of ``evaluate``, ``[times, chips]``.
        seed: seed of the chips.
        compensation: the drift compensation, or ``None`` without compensation.
    """

    times: tuple[float, ...]
    values: np.ndarray
    seed: int
    compensation: Any

    def __post_init__(self) -> None:
        try:
            values = np.asarray(self.values)
        except (TypeError, ValueError, RuntimeError):  # tensors that numpy cannot read, ragged lists
            values = np.empty(0)
        times = check_times("accuracy_over_time", self.times)
        if values.ndim != 2 or values.dtype.kind not in "fiu" or len(values) != len(times):
            raise ValueError(
                f"Report: values = {checks.shown(self.values)}; they must be numbers [times, chips], one row for each "
                f"of the times = {self.times}"
            )
        object.__setattr__(self, "values", values)

    @property
    def chips(self) -> int:
        """Number of chips."""
        return self.values.shape[1]

    def chip_seed(self, chip: int) -> int:
        """The seed with which ``pg.inference.program`` makes one of the chips again, such as the worst."""
        return seed_of_chip(self.seed, checks.integer("Report.chip_seed", "chip", chip, 0, self.chips - 1))

    def mean(self) -> np.ndarray:
        """Mean over chips at each time."""
        return self.values.mean(1)

    def sd(self) -> np.ndarray:
        """Sample standard deviation over chips at each time (0 for a single chip)."""
        return self.values.std(1, ddof=1) if self.chips > 1 else np.zeros(len(self.times))

    def quantile(self, q: float) -> np.ndarray:
        """Quantile over chips at each time."""
        return np.quantile(self.values, q, axis=1)

    def worst(self) -> np.ndarray:
        """The lowest value of any chip at each time; ``values.argmin(1)`` are the numbers of these chips."""
        return self.values.min(1)

    def interval(
        self, statistic: str = "mean", *, confidence: float = 0.95, resamples: int = 4000, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Confidence interval of a statistic of all chips that could be made, from those that were.

        It is an expanded percentile bootstrap (Hesterberg 2015): chips are drawn with replacement, and for a few chips
        the interval is as much wider as Student's. Use ten chips or more. It covers the variation from chip to chip,
        not the choice of the test set.

        Args:
            statistic: ``"mean"``, ``"median"`` or ``"sd"``.
            confidence: probability that the interval contains the value of the population.
            resamples: number of resamples.
            seed: seed of the resampling; torch's and numpy's generators are not used.

        Returns:
            The lower and the upper ends, ``[times]`` each.

        Raises:
            ValueError: there is a single chip, or an argument is out of its range.
        """
        caller = "Report.interval"
        checks.choice(caller, "statistic", statistic, tuple(STATISTICS))
        confidence = _confidence(caller, confidence)
        resamples, seed = checks.integer(caller, "resamples", resamples, 100), checks.integer(caller, "seed", seed, 0)
        if self.chips < 2:
            raise ValueError(f"{caller}: chips = {self.chips}; measure at least 2 chips, better 10 or more")
        return bootstrap_interval(self.values, statistic, confidence, resamples, seed)

    def yield_above(self, threshold: float) -> np.ndarray:
        """The fraction of chips with at least this value at each time."""
        return self._passing(checks.number("Report.yield_above", "threshold", threshold)) / self.chips

    def yield_interval(self, threshold: float, *, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Confidence interval of the fraction of all chips with at least this value (Clopper and Pearson, exact).

        A bootstrap would report certainty where all chips pass; the exact interval does not: if all of 100 chips pass,
        the yield is above 96.4 %.

        Returns:
            The lower and the upper ends, ``[times]`` each.
        """
        caller = "Report.yield_interval"
        passing = self._passing(checks.number(caller, "threshold", threshold))
        return proportion_interval(passing, self.chips, _confidence(caller, confidence))

    def _passing(self, threshold: float) -> np.ndarray:
        return (self.values >= threshold).sum(1)

    def rows(self, threshold: float | None = None) -> list[dict[str, float]]:
        """One dictionary per time.

        Its keys are ``time_s``, ``mean``, ``low`` and ``high`` (the 95 % interval of the mean; NaN for a single chip),
        ``sd``, ``p05``, ``p50``, ``p95``, ``worst``, ``chips``; with a ``threshold`` also ``yield``, ``yield_low`` and
        ``yield_high``.
        """
        unknown = (np.full(len(self.times), np.nan),) * 2
        low, high = self.interval() if self.chips > 1 else unknown
        columns = {"mean": self.mean(), "low": low, "high": high, "sd": self.sd()}
        columns.update(p05=self.quantile(0.05), p50=self.quantile(0.5), p95=self.quantile(0.95), worst=self.worst())
        if threshold is not None:
            lowest, highest = self.yield_interval(threshold)
            columns.update({"yield": self.yield_above(threshold), "yield_low": lowest, "yield_high": highest})
        found = [{name: float(column[i]) for name, column in columns.items()} for i in range(len(self.times))]
        return [{"time_s": t, **row, "chips": self.chips} for t, row in zip(self.times, found, strict=True)]

    def __str__(self) -> str:
        return self.table()

    def table(self, threshold: float | None = None) -> str:
        """The report as text; with a ``threshold``, the yield and its 95 % interval in place of the spread."""
        head = f"{'time':>10}  {'mean':>9}  {'95 % interval':>17}  "
        if threshold is None:
            head += f"{'sd':>9}  {'5 %':>9}  {'median':>9}  {'worst':>9}"
        else:
            head += f"{'median':>9}  {'worst':>9}  {f'yield at {threshold:g}':>21}"
        lines = [_line(row, threshold is not None) for row in self.rows(threshold)]
        title = f"{self.chips} chip(s), seed {self.seed}, {_described(self.compensation)}"
        return "\n".join([title, head, "-" * len(head), *lines])

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one row per time and chip: ``time_s, chip, value``.

        Raises:
            TypeError: ``path`` is no path.
            OSError: ``path`` is a folder, its folder does not exist, or the file could not be written; an existing
                file is unchanged.
        """
        rows = [(t, i, float(v)) for t, chips in zip(self.times, self.values, strict=True) for i, v in enumerate(chips)]
        write_csv(path, ("time_s", "chip", "value"), rows)

    def summary_to_csv(self, path: str | os.PathLike[str], threshold: float | None = None) -> None:
        """Write one row per time, with the columns of ``rows``; errors as for ``to_csv``."""
        rows = self.rows(threshold)
        write_csv(path, tuple(rows[0]), [tuple(row.values()) for row in rows])

    def plot(self, path: str | os.PathLike[str] | None = None, *, label: str = "analog", **options: Any) -> Any:
        """Draw the mean and the 5th to 95th percentile over time; options as for ``phasegrad.plot.over_time``."""
        from phasegrad.plot import over_time  # plot is the layer above, so it is imported only to draw

        return over_time({label: self}, path, **options)

    def plot_population(self, path: str | os.PathLike[str] | None = None, **options: Any) -> Any:
        """Draw every chip, the worst, the interval of the mean, and the yield against a threshold.

        Options as for ``phasegrad.plot.population``.
        """
        from phasegrad.plot import population

        return population(self, path, **options)


def _confidence(caller: str, value: object) -> float:
    confidence = checks.number(caller, "confidence", value, 0.0, 1.0, above=True)
    if confidence == 1.0:
        raise ValueError(f"{caller}: confidence = 1.0; no finite sample makes certain, so pass a number below 1")
    return confidence


def _described(compensation: Any) -> str:
    if compensation is None:
        return "not compensated"
    return f"compensated per {compensation}" if isinstance(compensation, str) else f"compensated by {compensation}"


def _line(row: dict[str, float], with_yield: bool) -> str:
    interval = f"{row['low']:.4f} - {row['high']:.4f}" if row["chips"] > 1 else "-"
    line = f"{format_time(row['time_s']):>10}  {row['mean']:9.4f}  {interval:>17}  "
    if not with_yield:
        return line + f"{row['sd']:9.4f}  {row['p05']:9.4f}  {row['p50']:9.4f}  {row['worst']:9.4f}"
    passing = f"{row['yield']:.1%} ({row['yield_low']:.0%} - {row['yield_high']:.0%})"
    return line + f"{row['p50']:9.4f}  {row['worst']:9.4f}  {passing:>21}"
