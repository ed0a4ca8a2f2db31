"""The interface of bit-line converters: range, errors, and straight-through gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from phasegrad.configuration import Configuration, check_integer, check_number, check_type
from phasegrad.crossbar.converters.ranges import CalibratedRange, FixedRange, FullScaleRange, LearnedRange
from phasegrad.crossbar.straight_through import straight_through
from phasegrad.deprecation import renamed_attributes
from phasegrad.ops import reference

Noise: TypeAlias = Callable[[int], Tensor]
"""Standard normals of the shape of the inputs, by the number of the decision; each decision has its own draw."""

_TEN = FixedRange(value=10.0)

Tolerance: TypeAlias = tuple[float, float]
"""Mean and standard deviation of one error over physical converters."""

__getattr__ = renamed_attributes(__name__, {"Spread": "Tolerance"})


@dataclass(frozen=True, kw_only=True)
class OutputConverter(Configuration, ABC):
    """Analog-to-digital converter of bit lines.

    A step is ``range / max_code``. An input ``y`` in steps is converted as ``v = (1 + gain) y + offset``, and the code
    of ``v`` is the result for ``y``. Gain and offset are properties of a physical converter: their means are
    ``gain_error`` and ``offset``, and the deviation of each converter is drawn once, independently, and stored in the
    state of the layer.

    The gradient is straight-through with the clip rule of the ideal converter: within the range the gradient of the
    output passes to ``y``; outside, it goes to the range, if that is learned, and ``y`` receives none.

    Args:
        bits: resolution, 2 to 16.
        range: output at which the converter clips, in units of ``max|w| max|x|``.
        gain_error: mean relative deviation of the slope.
        offset: mean shift [steps].
        gain_mismatch: standard deviation of the slope between converters.
        offset_mismatch: standard deviation of the shift between converters [steps].
        columns_per_converter: neighbouring columns of a tile that share one converter and its errors.
    """

    bits: int = 8
    range: FixedRange | FullScaleRange | CalibratedRange | LearnedRange = _TEN
    gain_error: float = 0.0
    offset: float = 0.0
    gain_mismatch: float = 0.0
    offset_mismatch: float = 0.0
    columns_per_converter: int = 1

    _renamed: ClassVar[dict[str, str]] = {"half": "max_code"}

    def without_noise(self) -> OutputConverter:
        """The same converter without noise; errors that are fixed at fabrication remain."""
        return self

    def __post_init__(self) -> None:
        check_integer(self, "bits", 2, 16)
        check_type(self, "range", (FixedRange, FullScaleRange, CalibratedRange, LearnedRange))
        learned = self.range
        if isinstance(learned, LearnedRange) and learned != LearnedRange(start=learned.start):
            raise ValueError(
                f"{type(self).__name__}: range = {learned}; decay and keep act only on the range of a DAC; give "
                "LearnedRange(start=...) alone"
            )
        check_number(self, "gain_error", -1.0, above=True)
        check_number(self, "offset", -float(1 << self.bits))
        check_number(self, "gain_mismatch", 0.0)
        check_number(self, "offset_mismatch", 0.0)
        check_integer(self, "columns_per_converter", 1, 1 << 20)

    @property
    def max_code(self) -> float:
        """Number of steps on each side of 0."""
        return 2.0 ** (self.bits - 1) - 1.0

    @property
    def mode(self) -> int:
        """Number of this converter in the fused kernels; 0 if the fused kernels do not implement it."""
        return reference.NO_CONVERTER

    @property
    def own_errors(self) -> tuple[Tolerance, ...]:
        """Tolerances of the errors of this kind of converter, other than gain and offset."""
        return ()

    @property
    def errors(self) -> tuple[Tolerance, ...]:
        """Tolerances of all errors of a physical converter: gain, offset [steps], and those of ``own_errors``."""
        general = ((self.gain_error, self.gain_mismatch), (self.offset, self.offset_mismatch))
        return (*general, *self.own_errors)

    @abstractmethod
    def levels(self, v: Tensor, own: Sequence[Tensor], noise: Noise) -> Tensor:
        """Quantise inputs to levels [steps].

        Args:
            v: inputs after gain and offset [steps]; may exceed the range.
            own: drawn ``own_errors`` of the converters, each broadcastable to ``v``.
            noise: standard normals by the number of the decision.
        """

    def convert(self, y: Tensor, full: Tensor, errors: Sequence[Tensor], noise: Noise) -> Tensor:
        """Convert inputs; values that are not finite or have no range pass unchanged.

        Args:
            y: inputs.
            full: end of the range in the units of ``y``, broadcastable to ``y``; 0 for no range.
            errors: drawn ``errors`` of the converters, each broadcastable to ``y``.
            noise: standard normals by the number of the decision.

        Returns:
            Converted inputs, in the units, shape and dtype of ``y``.
        """
        full = full.expand_as(y)
        gain, offset, *own = errors
        with torch.no_grad():
            passes = ~torch.isfinite(y) | (full <= 0)
            step = torch.where(full > 0, full, torch.ones_like(full)).float() / self.max_code
            v = (y.float() / step) * (1.0 + gain) + offset
            v = torch.where(passes, torch.zeros_like(v), v)
            value = torch.where(passes, y, (self.levels(v, own, noise) * step + 0.0 * full).to(y.dtype))
            side = torch.where(v > self.max_code, 1.0, torch.where(v < -self.max_code, -1.0, 0.0)).to(y.dtype)
        return straight_through(value, torch.where(side == 0, y, side * full))
