"""The ideal converter and its conventions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from phasegrad.configuration import check_choice
from phasegrad.crossbar.converters.base import Noise, OutputConverter
from phasegrad.ops import reference

_MODES = {
    "end-point": reference.END_POINT,
    "mid-rise": reference.MID_RISE,
    "sign-magnitude": reference.SIGN_MAGNITUDE,
}


@final
@dataclass(frozen=True, kw_only=True)
class Adc(OutputConverter):
    """Analog-to-digital converter with steps of equal size and, optionally, gain error and offset.

    Args:
        convention: ``"end-point"``: ``2**bits - 1`` levels that include 0 and both ends;
            ``"mid-rise"``: ``2**bits`` levels, the innermost half a step from 0;
            ``"sign-magnitude"``: a sign and ``bits - 1`` bits of the magnitude, truncated, as by a counter, with
            ``2**bits - 1`` levels; the level 0 is two steps wide, the largest level one step below the range.
    """

    convention: str = "end-point"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "convention", tuple(_MODES))

    @property
    def max_code(self) -> float:
        """Number of steps on each side of 0."""
        return 2.0 ** (self.bits - 1) - (1.0 if self.convention == "end-point" else 0.0)

    @property
    def mode(self) -> int:
        """Number of the convention in the fused kernels; 0 for a converter with errors."""
        if any(value != 0.0 for tolerance in self.errors for value in tolerance):
            return reference.NO_CONVERTER
        return _MODES[self.convention]

    def levels(self, v: Tensor, own: Sequence[Tensor], noise: Noise) -> Tensor:
        """Round to the levels of the convention [steps]."""
        return reference.quantise(v.clamp(-self.max_code, self.max_code), _MODES[self.convention], self.max_code)
