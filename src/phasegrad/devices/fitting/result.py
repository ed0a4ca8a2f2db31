"""What a fit returns."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from phasegrad.devices.base import Device


@dataclass(frozen=True)
class Coefficient:
    """A coefficient with its confidence interval."""

    value: float
    """The estimate, in the unit."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    unit: str = ""
    """``"S"``, ``"A"``, or empty for a number."""

    def __contains__(self, value: float) -> bool:
        """Whether a value lies within the interval."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Alternative:
    """A law that was compared with others on the same measurements."""

    part: str
    """What the law describes, such as ``"steps"`` or ``"nu_mean"``."""
    name: str
    parameters: int
    log_likelihood: float
    measurements: int
    """Independent devices or steps, which the penalty of BIC counts."""
    chosen: bool = False

    @property
    def aic(self) -> float:
        """Akaike's criterion; lower is better."""
        return 2.0 * self.parameters - 2.0 * self.log_likelihood

    @property
    def bic(self) -> float:
        """Schwarz's criterion; lower is better."""
        return self.parameters * math.log(self.measurements) - 2.0 * self.log_likelihood


@dataclass(frozen=True)
class Panel:
    """Measurements and the fitted law, to be drawn together."""

    title: str
    xlabel: str
    ylabel: str
    x: np.ndarray
    """Position of the measured points."""
    y: np.ndarray
    """Measured points."""
    line_x: np.ndarray
    """Position of the fitted line."""
    line: np.ndarray
    """Fitted line."""
    band: tuple[np.ndarray, np.ndarray] | None = None
    """Lower and upper end of what 90 % of devices are expected to do."""
    logarithmic: bool = False
    """Whether the horizontal axis is logarithmic."""


@dataclass(frozen=True)
class Fit:
    """A device that was fitted to measurements.

    Printing it lists coefficients with their intervals and the laws that were compared.
    """

    device: Device
    """The device, ready for a cell."""
    coefficients: dict[str, Coefficient]
    """Coefficients by the name of their law and field, such as ``"nu_mean.log_slope"``."""
    alternatives: tuple[Alternative, ...]
    """Laws that were compared; the chosen ones are marked."""
    devices: int
    """Measured devices."""
    measurements: int
    """Measured rows."""
    confidence: float
    """Coverage that the intervals aim at."""
    notes: tuple[str, ...] = ()
    """What the measurements did not determine, and what was left out."""
    panels: tuple[Panel, ...] = field(default=(), repr=False)
    """What ``plot`` draws."""

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draw measurements and fit, as ``phasegrad.plot.fitted`` does.

        Args:
            path: path of the image file; ``None`` to write none.

        Returns:
            The matplotlib figure.
        """
        from phasegrad.plot import fitted  # plot is a layer above, so it is imported only to draw

        return fitted(self, path)

    def __str__(self) -> str:
        percent = f"{100.0 * self.confidence:g} %"
        lines = [f"{self.measurements} measurements of {self.devices} devices, intervals of {percent}"]
        lines += [_row(name, found) for name, found in self.coefficients.items()]
        lines += [f"{'law':<32}{'parameters':>11}{'AIC':>12}{'BIC':>12}"]
        lines += [self._compared(alternative) for alternative in self.alternatives]
        return "\n".join([*lines, *self.notes])

    def _compared(self, one: Alternative) -> str:
        """A row of the comparison: criteria relative to the lowest of the part."""
        others = [other for other in self.alternatives if other.part == one.part]
        aic, bic = one.aic - min(other.aic for other in others), one.bic - min(other.bic for other in others)
        label = f"{'* ' if one.chosen else '  '}{one.part}: {one.name}"
        return f"{label:<32}{one.parameters:>11}{aic:>12.1f}{bic:>12.1f}"


def _row(name: str, found: Coefficient) -> str:
    factor, unit = {"S": (1e6, "µS"), "A": (1e6, "µA")}.get(found.unit, (1.0, found.unit))
    value, low, high = (factor * v for v in (found.value, found.low, found.high))
    return f"{name:<26}{value:>11.5g}  [{low:.5g}, {high:.5g}] {unit}".rstrip()
