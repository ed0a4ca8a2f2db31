"""Ranges of converters.

The range of a DAC has the units of the layer's input. The range of an ADC is in units of the largest product of one
cell, ``max|w| max|x|``: full-scale inputs on all lines of a tile with ``n`` rows give an output of ``n``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from phasegrad.configuration import Configuration, check_number


@final
@dataclass(frozen=True, kw_only=True)
class FixedRange(Configuration):
    """A constant range.

    Args:
        value: the range.
    """

    value: float

    def __post_init__(self) -> None:
        check_number(self, "value", 0.0, above=True)


@final
@dataclass(frozen=True, kw_only=True)
class LearnedRange(Configuration):
    """A range that is a parameter: clipped values increase it, ``decay`` decreases it.

    The gradient of the range is the sum of the gradients of clipped values, each with its sign, plus ``decay`` times
    the range if at least a fraction ``keep`` of the values is within the range.

    Args:
        start: range before calibration.
        decay: rate at which the range decreases; DAC only.
        keep: smallest fraction of inputs within the range at which the decay acts; DAC only.

    References:
        Rasch, M. J. et al. Hardware-aware training for large-scale and diverse deep learning inference workloads using
        in-memory computing-based accelerators. Nat. Commun. 14, 5282 (2023), Methods.
        https://doi.org/10.1038/s41467-023-40770-4
    """

    start: float = 3.0
    decay: float = 1e-3
    keep: float = 0.95

    def __post_init__(self) -> None:
        check_number(self, "start", 0.0, above=True)
        check_number(self, "decay", 0.0)
        check_number(self, "keep", 0.0, 1.0)


@final
@dataclass(frozen=True, kw_only=True)
class AbsMaxRange(Configuration):
    """The largest input magnitude, of each vector for a linear layer and of each image for a convolution."""


@final
@dataclass(frozen=True, kw_only=True)
class FullScaleRange(Configuration):
    """The largest possible output, which is the number of rows that a tile drives."""


@final
@dataclass(frozen=True, kw_only=True)
class CalibratedRange(Configuration):
    """A range set from data by [`calibrate`][phasegrad.hwa.calibrate], then fixed.

    Args:
        percentile: percentage of the calibration outputs within the range [%].
        start: range before calibration.
    """

    percentile: float = 99.99
    start: float = 10.0

    def __post_init__(self) -> None:
        check_number(self, "percentile", 0.0, 100.0, above=True)
        check_number(self, "start", 0.0, above=True)
