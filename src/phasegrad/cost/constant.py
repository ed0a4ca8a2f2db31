"""A constant of a technology: a value, and where it is from."""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass
from typing import Any, final

from phasegrad.configuration import Configuration, check_choice, check_finite

ORIGINS = ("given", "published", "derived", "fitted", "assumed")


@final
@dataclass(frozen=True, kw_only=True)
class Constant(Configuration):
    """A value with its source. The field that stores it defines the unit, which is SI.

    Args:
        value: the value.
        source: where it is from: a citation, or how it was found.
        origin: ``"published"``: read in the source; ``"derived"``: computed from published figures; ``"fitted"``:
            chosen so that the estimate reproduces a published figure, which it then does not predict;
            ``"assumed"``: without a source for this technology; ``"given"``: by the user.

    Raises:
        ValueError: the value is not finite, or the origin is unknown.

    Examples:
        >>> Constant(value=0.36e-12, source="survey of 8-bit converters in 14 nm", origin="published").value
        3.6e-13
    """

    value: float
    source: str
    origin: str = "given"

    def __post_init__(self) -> None:
        check_finite(self, "value")
        check_choice(self, "origin", ORIGINS)


def with_constants(kind: str, fields: dict[str, Any], names: Container[str]) -> dict[str, Any]:
    """The fields that a user gives, with a constant without a source for each plain number among ``names``.

    Raises:
        ValueError: such a number is not finite.
    """
    return {name: _given(kind, name, value) if name in names else value for name, value in fields.items()}


def _given(kind: str, name: str, value: Any) -> Any:
    if type(value) not in (int, float):
        return value
    if not math.isfinite(value):
        raise ValueError(f"{kind}: {name} = {value}; it must be finite")
    return Constant(value=value, source="no source")
