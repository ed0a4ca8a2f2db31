"""A constant of a technology: a value, and where it is from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

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


def given(value: float) -> Constant:
    """A number that a user wrote without a source."""
    return Constant(value=value, source="no source")
