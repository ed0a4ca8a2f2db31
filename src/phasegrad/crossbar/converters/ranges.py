"""The ranges that converters cover.

Units: a DAC's range is in units of the layer's input. An ADC's range is in units of the largest product that one
cell can give, ``max|w| max|x|``: with full-scale inputs on all lines of a tile of ``n`` rows the output is ``n``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from phasegrad.configuration import Configuration, check_number


@final
@dataclass(frozen=True, kw_only=True)
class FixedRange(Configuration):
    """A range that never changes."""

    value: float

    def __post_init__(self) -> None:
        check_number(self, "value", 0.0, above=True)


@final
@dataclass(frozen=True, kw_only=True)
class LearnedRange(Configuration):
    """A range that is a parameter: clipped values pull it outwards, ``decay`` pulls it inwards.

    Gradient of the range: the sum of the gradients of clipped values, each with its sign, plus ``decay`` times the
    range when at least ``keep`` of the values lie inside (Rasch et al., Nat. Commun. 14, 2023, Methods).

    Args:
        start: value before calibration.
        decay: pull towards smaller ranges; DAC only.
        keep: fraction of inputs inside from which on the pull acts; DAC only.
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
    """The largest input: of each vector for a linear layer, of each image for a convolution."""


@final
@dataclass(frozen=True, kw_only=True)
class FullScaleRange(Configuration):
    """The largest output that is possible: the number of rows that a tile drives."""


@final
@dataclass(frozen=True, kw_only=True)
class CalibratedRange(Configuration):
    """A range set from data by :func:`phasegrad.hwa.calibrate`, then fixed.

    Args:
        percentile: the part of the calibration outputs that lies inside [%].
        start: value before calibration.
    """

    percentile: float = 99.99
    start: float = 10.0

    def __post_init__(self) -> None:
        check_number(self, "percentile", 0.0, 100.0, above=True)
        check_number(self, "start", 0.0, above=True)
