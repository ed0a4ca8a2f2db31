"""Ramp converter: a ramp, a comparator and a counter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from phasegrad.configuration import check_number
from phasegrad.crossbar.converters.base import Noise, OutputConverter, Tolerance


@final
@dataclass(frozen=True, kw_only=True)
class RampAdc(OutputConverter):
    """Ramp (single-slope) converter: a counter runs until a ramp crosses the input.

    The error of the slope is the gain error, the offset of the comparator is the offset: ``gain_error`` and
    ``offset_mismatch`` alone describe one ramp for all columns and one comparator per column. The integrator bends the
    ramp to ``r(t) = t + 4 c t (1 - t)`` over the range, with ``c = curvature / (2 max_code)``. For the position ``t``
    of a code in [0, 1], transitions are therefore raised by ``INL(t) = 4 curvature t (1 - t)``: by ``curvature`` steps
    in the middle and by 0 at the ends. Without errors the converter is the ideal one (mid-tread).

    Args:
        curvature: mean deviation of the ramp from a straight one in the middle [steps].
        curvature_mismatch: standard deviation of that deviation between converters [steps].
    """

    curvature: float = 0.0
    curvature_mismatch: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(
            self, "curvature", -0.5 * self.max_code, 0.5 * self.max_code
        )  # the ramp is monotonic only within these bounds
        check_number(self, "curvature_mismatch", 0.0)

    @property
    def own_errors(self) -> tuple[Tolerance, ...]:
        """Tolerance of the curvature [steps]."""
        return ((self.curvature, self.curvature_mismatch),)

    def levels(self, v: Tensor, own: Sequence[Tensor], noise: Noise) -> Tensor:
        """Count at which the ramp crosses the input [steps]."""
        p = (0.5 * v / self.max_code + 0.5).clamp(0.0, 1.0)
        c = (2.0 / self.max_code) * own[0]  # four times the curvature over the range; solves c t^2 - (1 + c) t + p = 0
        t = 2.0 * p / ((1.0 + c) + torch.sqrt(((1.0 + c).square() - 4.0 * c * p).clamp(min=0.0)))
        return torch.round((2.0 * t - 1.0) * self.max_code).clamp(-self.max_code, self.max_code)
