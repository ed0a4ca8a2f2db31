"""Scalar laws of the normalised conductance ``g = G / g_max``, for drift exponents and noise."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from torch import Tensor

from phasegrad.configuration import Configuration, check_type
from phasegrad.ops import reference


@dataclass(frozen=True, kw_only=True)
class Law(Configuration, ABC):
    """A function of ``g`` that the kernels can evaluate from a flat list of numbers (see ``ops``)."""

    @abstractmethod
    def encode(self) -> tuple[float, ...]:
        """The law as the flat list of numbers that the kernels read."""

    def scaled(self, factor: float) -> Law:
        """The law times a factor that is not negative.

        Raises:
            NotImplementedError: a law of one's own does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__}: define scaled(factor), the law times a factor")

    def __call__(self, g: Tensor) -> Tensor:
        """Evaluate the law; shape and dtype of ``g``."""
        return reference.law(g, self.encode())


@dataclass(frozen=True, kw_only=True)
class _Branch(Law):
    """A law with one formula over its whole domain; [`Piecewise`][phasegrad.devices.Piecewise] joins two of them."""

    @abstractmethod
    def branch(self) -> tuple[float, ...]:
        """``a, b, exponential, c1, c2, c3, low, high``."""

    @abstractmethod
    def scaled(self, factor: float) -> Curve | Power:
        """The law times a factor that is not negative."""

    def encode(self) -> tuple[float, ...]:
        """The formula, as the branch below an infinite threshold."""
        return (0.0, math.inf, *self.branch(), *(0.0,) * 8)


@final
@dataclass(frozen=True, kw_only=True)
class Curve(_Branch):
    """``clip(log_slope ln g + polynomial(g), low, high)``.

    Args:
        log_slope: coefficient of the natural logarithm of ``g``.
        polynomial: one to four coefficients of powers of ``g``, lowest power first.
        low: lower bound of the law.
        high: upper bound of the law.

    Examples:
        >>> import torch
        >>> Curve(log_slope=-0.0155, polynomial=(0.0244,), low=0.049, high=0.1)(torch.tensor([0.0, 0.1, 1.0]))
        tensor([0.1000, 0.0601, 0.0490])
    """

    log_slope: float = 0.0
    polynomial: tuple[float, ...] = (0.0,)
    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        if not 1 <= len(self.polynomial) <= 4 or not all(math.isfinite(c) for c in self.polynomial):
            raise ValueError(f"Curve: polynomial = {self.polynomial}; it must have one to four finite coefficients")
        if not math.isfinite(self.log_slope):
            raise ValueError(f"Curve: log_slope = {self.log_slope}; it must be finite")
        if not self.low <= self.high:
            raise ValueError(f"Curve: low = {self.low} and high = {self.high}; low must not exceed high")

    def branch(self) -> tuple[float, ...]:
        """Coefficients of the logarithm and the polynomial, and the bounds."""
        c0, c1, c2, c3 = (*self.polynomial, *(0.0,) * (4 - len(self.polynomial)))
        return (self.log_slope, c0, 0.0, c1, c2, c3, self.low, self.high)

    def scaled(self, factor: float) -> Curve:
        """The law times a factor that is not negative."""
        if factor == 0.0:  # an infinite bound times 0 is not a number
            return Curve()
        terms = tuple(factor * c for c in self.polynomial)
        return Curve(
            log_slope=factor * self.log_slope, polynomial=terms, low=factor * self.low, high=factor * self.high
        )


@final
@dataclass(frozen=True, kw_only=True)
class Power(_Branch):
    """``min(factor * g ** exponent, high)``, with ``factor`` above 0."""

    factor: float
    exponent: float
    high: float = math.inf

    def __post_init__(self) -> None:
        if not self.high >= 0:
            raise ValueError(f"Power: high = {self.high}; it must not be negative")
        if not (self.factor > 0 and math.isfinite(self.factor) and math.isfinite(self.exponent)):
            raise ValueError(
                f"Power: factor = {self.factor} and exponent = {self.exponent}; the factor must be above 0, and both "
                "must be finite"
            )

    def branch(self) -> tuple[float, ...]:
        """The power law as the exponential of a straight line in ``ln g``."""
        return (self.exponent, math.log(self.factor), 1.0, 0.0, 0.0, 0.0, 0.0, self.high)

    def scaled(self, factor: float) -> Curve | Power:
        """The law times a factor that is not negative."""
        if factor == 0.0:
            return Curve()
        return Power(factor=factor * self.factor, exponent=self.exponent, high=factor * self.high)


@final
@dataclass(frozen=True, kw_only=True)
class Piecewise(Law):
    """One law below a threshold of ``g``, another at and above it."""

    threshold: float
    below: Curve | Power
    above: Curve | Power

    def __post_init__(self) -> None:
        check_type(self, "below", (Curve, Power))
        check_type(self, "above", (Curve, Power))
        if not math.isfinite(self.threshold):
            raise ValueError(f"Piecewise: threshold = {self.threshold}; it must be finite")

    def encode(self) -> tuple[float, ...]:
        """The threshold and both formulas."""
        return (0.0, self.threshold, *self.below.branch(), *self.above.branch())

    def scaled(self, factor: float) -> Piecewise:
        """The law times a factor that is not negative."""
        return Piecewise(threshold=self.threshold, below=self.below.scaled(factor), above=self.above.scaled(factor))


@final
@dataclass(frozen=True, kw_only=True)
class Table(Law):
    """Linear interpolation between measured points, constant beyond the first and the last.

    Args:
        g: normalised conductances in increasing order.
        value: value of the law at each.

    Examples:
        >>> import torch
        >>> Table(g=(0.0, 0.5, 1.0), value=(0.1, 0.06, 0.05))(torch.tensor([0.25, 0.5, 2.0]))
        tensor([0.0800, 0.0600, 0.0500])
    """

    g: tuple[float, ...]
    value: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.g or len(self.g) != len(self.value):
            raise ValueError(f"Table: {len(self.g)} points and {len(self.value)} values; give one value per point")
        if any(b <= a for a, b in itertools.pairwise(self.g)):
            raise ValueError(f"Table: g = {self.g}; the points must increase")
        if not all(math.isfinite(x) for x in (*self.g, *self.value)):
            raise ValueError("Table: g and value must be finite")

    def encode(self) -> tuple[float, ...]:
        """The points and their values."""
        return (1.0, float(len(self.g)), *self.g, *self.value)

    def scaled(self, factor: float) -> Table:
        """The law times a factor that is not negative."""
        return Table(g=self.g, value=tuple(factor * value for value in self.value))
