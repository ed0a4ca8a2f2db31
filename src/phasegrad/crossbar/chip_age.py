"""Distributions of the age of a chip, for training that is aware of drift."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from phasegrad.configuration import Configuration, check_number

_BITS = 52
"""Random bits of a draw, as many as a float64 distinguishes in [0, 1)."""
UNDRAWN = -1
"""The draw of a layer whose net draws no age for it."""


@dataclass(frozen=True, kw_only=True)
class AgeDistribution(Configuration, ABC):
    """The age of a chip, as a random variable."""

    @abstractmethod
    def quantile(self, share: Tensor) -> Tensor:
        """The age [s] below which a share of the chips is, float64 in [0, 1); of the same shape and dtype."""


@final
@dataclass(frozen=True, kw_only=True)
class LogUniform(AgeDistribution):
    """Ages whose logarithm is uniform, so that each decade is equally likely.

    Drift is a power of time, so that each decade also changes conductances by about the same factor.

    Args:
        low: lowest age, above 0 [s].
        high: highest age, above ``low`` [s].

    Examples:
        >>> LogUniform(low=1.0, high=1e8).quantile(torch.tensor([0.0, 0.5], dtype=torch.float64))
        tensor([1.0000e+00, 1.0000e+04], dtype=torch.float64)
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        check_number(self, "low", 0.0, above=True)
        check_number(self, "high", self.low, above=True)

    def quantile(self, share: Tensor) -> Tensor:
        """The age [s] below which a share of the chips is."""
        return self.low * torch.exp(share * math.log(self.high / self.low))


@final
@dataclass(frozen=True, kw_only=True)
class Uniform(AgeDistribution):
    """Ages that are uniform: a chip in service for ``high - low`` seconds, at a random moment of its life.

    Args:
        low: lowest age [s].
        high: highest age, above ``low`` [s].
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        check_number(self, "low", 0.0)
        check_number(self, "high", self.low, above=True)

    def quantile(self, share: Tensor) -> Tensor:
        """The age [s] below which a share of the chips is."""
        return self.low + share * (self.high - self.low)


@final
@dataclass(frozen=True, kw_only=True)
class FixedAge(AgeDistribution):
    """The same age for all chips.

    Args:
        seconds: the age [s].
    """

    seconds: float

    def __post_init__(self) -> None:
        check_number(self, "seconds", 0.0)

    def quantile(self, share: Tensor) -> Tensor:
        """``seconds``."""
        return torch.full_like(share, self.seconds)


def share_of(draw: Tensor | None, seed: Tensor) -> Tensor:
    """The share of chips that are younger than the chip of a step, float64 ``[1]`` in [0, 1).

    Args:
        draw: the random integer that the layers of a net share, 0-d int64; negative or ``None`` if there is none.
        seed: the seed of one call of the layer, from which the age is drawn without one.
    """
    number = seed if draw is None else torch.where(draw >= 0, draw, seed)
    return (number & ((1 << _BITS) - 1)).double() * 2.0**-_BITS
