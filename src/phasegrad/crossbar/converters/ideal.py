"""The ideal converter, and its conventions."""

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
    """Analog-to-digital converter of a bit line: even steps, and at most a gain error and an offset.

    Args:
        convention: ``"end-point"``: ``2**bits - 1`` levels that include zero and both ends;
            ``"mid-rise"``: ``2**bits`` levels, half a step on each side of zero;
            ``"sign-magnitude"``: a sign and ``bits - 1`` bits of the size, rounded down as a counter does:
            ``2**bits - 1`` levels, zero two steps wide, the largest one step below the range.
    """

    convention: str = "end-point"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "convention", tuple(_MODES))

    @property
    def max_code(self) -> float:
        """Steps on each side of zero."""
        return 2.0 ** (self.bits - 1) - (1.0 if self.convention == "end-point" else 0.0)

    @property
    def mode(self) -> int:
        """The number by which the kernels know the convention; 0 with errors, which are computed apart."""
        if any(value != 0.0 for tolerance in self.errors for value in tolerance):
            return reference.NO_CONVERTER
        return _MODES[self.convention]

    def levels(self, v: Tensor, own: Sequence[Tensor], noise: Noise) -> Tensor:
        """Round as the convention says."""
        return reference.quantise(v.clamp(-self.max_code, self.max_code), _MODES[self.convention], self.max_code)
