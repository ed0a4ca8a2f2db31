"""The ideal converter and its conventions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

from torch import Tensor

from phasegrad.configuration import check_choice
from phasegrad.crossbar.converters.base import Noise, OutputConverter
from phasegrad.deprecation import warn_deprecated, warn_renamed
from phasegrad.ops import reference

_MODES = {
    "mid-tread": reference.MID_TREAD,
    "end-point": reference.END_POINT,
    "mid-rise": reference.MID_RISE,
    "counter": reference.COUNTER,
}


@final
@dataclass(frozen=True, kw_only=True)
class Adc(OutputConverter):
    """Analog-to-digital converter with steps of equal size and, optionally, gain error and offset.

    Args:
        convention: ``"mid-tread"``: ``2**bits - 1`` levels that include 0 and both ends;
            ``"end-point"``: ``2**bits`` levels that include both ends, the innermost half a step from 0;
            ``"mid-rise"``: ``2**bits`` levels, the innermost half a step from 0, the outermost half a step from the
            ends;
            ``"counter"``: a sign and ``bits - 1`` bits of the magnitude, truncated, as by a counter, with
            ``2**bits - 1`` levels; the level 0 is two steps wide, the largest level one step below the range.
            Release 0.1.0 had two other names: ``"end-point"`` was what is ``"mid-tread"`` now, and
            ``"sign-magnitude"`` was ``"counter"``. Its files load with the present names.
    """

    convention: str = "mid-tread"

    _former_values: ClassVar[dict[str, dict[str, str]]] = {
        "convention": {"end-point": "mid-tread", "sign-magnitude": "counter"}
    }

    @classmethod
    def _values_given(cls, fields: dict[str, Any]) -> dict[str, Any]:
        if fields.get("convention") == "sign-magnitude":
            warn_renamed('Adc(convention="sign-magnitude")', 'convention="counter"')
            return {**fields, "convention": "counter"}
        if fields.get("convention") == "end-point":
            warn_deprecated(
                'Adc(convention="end-point") has 2**bits levels without 0 since phasegrad 0.2.0; what it was in '
                'release 0.1.0 is convention="mid-tread"'
            )
        return fields

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "convention", tuple(_MODES))

    @property
    def max_code(self) -> float:
        """Number of steps on each side of 0."""
        return 2.0 ** (self.bits - 1) - {"mid-tread": 1.0, "end-point": 0.5}.get(self.convention, 0.0)

    @property
    def mode(self) -> int:
        """Number of the convention in the fused kernels; 0 for a converter with errors."""
        if any(value != 0.0 for tolerance in self.errors for value in tolerance):
            return reference.NO_CONVERTER
        return _MODES[self.convention]

    def levels(self, v: Tensor, own: Sequence[Tensor], noise: Noise) -> Tensor:
        """Round to the levels of the convention [steps]."""
        return reference.quantise(v.clamp(-self.max_code, self.max_code), _MODES[self.convention], self.max_code)
