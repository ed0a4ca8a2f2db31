"""What the converters of bit lines share: their range, their errors, and the gradient through them."""

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
"""Standard normals of the shape of what is converted, fresh for each decision of a conversion."""

_TEN = FixedRange(value=10.0)

Tolerance: TypeAlias = tuple[float, float]
"""Mean and standard deviation, over physical converters, of one of their errors."""

__getattr__ = renamed_attributes(__name__, {"Spread": "Tolerance"})


@dataclass(frozen=True, kw_only=True)
class OutputConverter(Configuration, ABC):
    """Analog-to-digital converter of bit lines.

    A step is ``range / max_code``. Input ``y``, in steps, is converted as ``v = (1 + gain) y + offset``; the code is taken
    for ``y`` again. Gain and offset are a physical converter's own: their means are ``gain_error`` and ``offset``, and
    each converter's deviation is drawn once, independently, and kept in the layer's state.

    The gradient is straight-through, with the clip rule of the ideal converter: where the converter is inside of its
    range, ``y`` gets that of the output; beyond, it belongs to the range (if that is learned) and ``y`` gets none.

    Args:
        bits: resolution, 2 to 16.
        range: the output at which it clips, in units of ``max|w| max|x|``.
        gain_error: mean relative deviation of the slope.
        offset: mean shift [steps].
        gain_mismatch: standard deviation of the slope between converters.
        offset_mismatch: standard deviation of the shift between converters [steps].
        columns_per_converter: neighbouring columns of a tile that take turns on one converter, and share its errors.
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
        """The same converter, drawing nothing when it converts; errors that it has for life stay."""
        return self

    def __post_init__(self) -> None:
        check_integer(self, "bits", 2, 16)
        check_type(self, "range", (FixedRange, FullScaleRange, CalibratedRange, LearnedRange))
        learned = self.range
        if isinstance(learned, LearnedRange) and learned != LearnedRange(start=learned.start):
            raise ValueError(
                f"{type(self).__name__}: range = {learned}; decay and keep act on the range of a DAC alone, leave them "
                "out"
            )
        check_number(self, "gain_error", -1.0, above=True)
        check_number(self, "offset", -float(1 << self.bits))
        check_number(self, "gain_mismatch", 0.0)
        check_number(self, "offset_mismatch", 0.0)
        check_integer(self, "columns_per_converter", 1, 1 << 20)

    @property
    def max_code(self) -> float:
        """Steps on each side of zero."""
        return 2.0 ** (self.bits - 1) - 1.0

    @property
    def mode(self) -> int:
        """The number by which the fused kernels know this converter; 0 where it is computed apart from them."""
        return reference.NO_CONVERTER

    @property
    def own_errors(self) -> tuple[Tolerance, ...]:
        """The errors that this kind of converter has beside gain and offset."""
        return ()

    @property
    def errors(self) -> tuple[Tolerance, ...]:
        """Every error of a physical converter: gain, offset [steps], and its kind's own."""
        general = ((self.gain_error, self.gain_mismatch), (self.offset, self.offset_mismatch))
        return (*general, *self.own_errors)

    @abstractmethod
    def levels(self, v: Tensor, own: Sequence[Tensor], noise: Noise) -> Tensor:
        """The levels [steps] that inputs come out as.

        Args:
            v: inputs [steps], after gain and offset; some beyond the range.
            own: :attr:`own_errors` of the converters, each to broadcast over ``v``.
            noise: standard normals for a decision.
        """

    def convert(self, y: Tensor, full: Tensor, errors: Sequence[Tensor], noise: Noise) -> Tensor:
        """Convert, in the units of ``y``; what is not finite, or has no range, passes.

        Args:
            y: inputs.
            full: where the range ends, above 0, to broadcast over ``y``.
            errors: :attr:`errors` of the converters, each to broadcast over ``y``.
            noise: standard normals for a decision.
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
