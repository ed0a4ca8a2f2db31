"""What each layer of a net costs on a chip."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from phasegrad.inference.confidence import bootstrap_interval
from phasegrad.inference.tables import write_csv
from phasegrad.inference.times import format_time


@dataclass(frozen=True)
class Sensitivity:
    """Measurements of [`sensitivity`][phasegrad.inference.sensitivity].

    Attributes:
        layers: names of each layer; several names for layers that share a weight.
        weights: number of weights of each layer.
        time: age of the chips [s].
        reference: value of the digital net.
        target: value to reach.
        alone: values ``[layers, chips]`` with one layer alone on the chip.
        order: numbers of the layers, the costliest first.
        path: values ``[steps, chips]`` with the first 0, 1, 2, ... layers of ``order`` digital, until the mean reaches
            the target.
    """

    layers: tuple[tuple[str, ...], ...]
    weights: tuple[int, ...]
    time: float
    reference: float
    target: float
    alone: np.ndarray
    order: tuple[int, ...]
    path: np.ndarray

    @property
    def names(self) -> tuple[str, ...]:
        """One name per layer."""
        return tuple(names[0] or "the net" for names in self.layers)

    @property
    def analog(self) -> np.ndarray:
        """Values ``[chips]`` of the chips with all layers."""
        return self.path[0]

    @property
    def keep_digital(self) -> tuple[str, ...]:
        """Names of the layers to keep digital, the costliest first; empty if the chips reach the target."""
        return tuple(name for k in self.order[: len(self.path) - 1] for name in self.layers[k])

    def cost(self) -> np.ndarray:
        """Mean loss ``[layers]`` against the digital net with one layer alone on the chip."""
        return self.reference - self.alone.mean(1)

    def cost_interval(self, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Bootstrap interval of ``cost``, as [`Report.interval`][phasegrad.inference.Report.interval].

        Raises:
            ValueError: there is a single chip.
        """
        if self.alone.shape[1] < 2:
            raise ValueError("Sensitivity.cost_interval: chips = 1; measure at least 2 chips, better 10 or more")
        low, high = bootstrap_interval(self.alone, "mean", confidence, 4000, 0)
        return self.reference - high, self.reference - low

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per layer, the costliest first.

        Its keys are ``layer``, ``weights``, ``cost``, ``low`` and ``high`` (the 95 % interval; NaN for a single chip),
        ``digital`` (whether it is in ``keep_digital``), and ``after``: the mean with it and those above it digital; NaN
        for layers behind the one that reached the target.
        """
        cost, kept = self.cost(), len(self.path) - 1
        unknown = np.full(len(cost), np.nan)
        low, high = self.cost_interval() if self.alone.shape[1] > 1 else (unknown, unknown)
        means = (*self.path.mean(1)[1:], *[np.nan] * (len(self.order) - kept))
        return [
            {"layer": self.names[k], "weights": self.weights[k], "cost": float(cost[k]), "low": float(low[k]),
             "high": float(high[k]), "digital": step < kept, "after": float(means[step])}
            for step, k in enumerate(self.order)
        ]  # fmt: skip

    def __str__(self) -> str:
        width, total = max(10, *map(len, self.names)), sum(self.weights)
        title = (
            f"digital {self.reference:.4f}, on {self.alone.shape[1]} chip(s) at {format_time(self.time)} "
            f"{self.analog.mean():.4f}, target {self.target:.4f}"
        )
        head = f"{'layer':<{width}}  {'weights':>7}  {'costs':>8}  {'95 % interval':>18}  {'if digital':>10}"
        lines = [_line(row, width, total) for row in self.rows()]
        kept = ", ".join(self.keep_digital) or "none"
        return "\n".join([title, head, "-" * len(head), *lines, f"keep digital for the target: {kept}"])

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one row per layer, with the columns of ``rows``.

        Raises:
            TypeError: ``path`` is no path.
            OSError: ``path`` is a folder, its folder does not exist, or the file could not be written.
        """
        rows = self.rows()
        write_csv(path, tuple(rows[0]), [tuple(row.values()) for row in rows])

    def plot(self, path: str | os.PathLike[str] | None = None, **options: Any) -> Any:
        """Draw the cost of each layer, and the value as layers become digital.

        Options as for ``phasegrad.plot.layer_costs``.
        """
        from phasegrad.plot import layer_costs  # plot is the layer above, so it is imported only to draw

        return layer_costs(self, path, **options)


def _line(row: dict[str, Any], width: int, total: int) -> str:
    interval = "-" if np.isnan(row["low"]) else f"{row['low']:.4f} - {row['high']:.4f}"
    after = f"{row['after']:.4f}" if row["digital"] else "-"
    return f"{row['layer']:<{width}}  {row['weights'] / total:7.1%}  {row['cost']:8.4f}  {interval:>18}  {after:>10}"
