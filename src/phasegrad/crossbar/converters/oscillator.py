"""A current that sets the pace of an oscillator, whose periods are counted."""

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
class OscillatorAdc(OutputConverter):
    """Current-controlled oscillator: periods counted in a fixed window, a sign and ``bits - 1`` bits of count.

    The rate at a fraction ``m`` of the full current is ``m (1 - nonlinearity m)``, and whole periods alone count, so
    the count is rounded down and zero is two steps wide. A straight line through the ends is exceeded by ``nonlinearity
    m (1 - m) max_code`` counts, so transitions lie lower by as much (INL), divided by the slope. The counter stops at
    ``2^(bits - 1) - 1``. Rates differ by ``gain_mismatch``. Oscillators of this kind convert the columns of IBM's
    HERMES core (Khaddam-Aljameh et al., IEEE J. Solid-State Circuits 57, 2022). Without errors the converter is the
    ideal one (sign-magnitude).

    Args:
        nonlinearity: mean relative loss of rate at the full current.
        nonlinearity_mismatch: its standard deviation between converters.
    """

    nonlinearity: float = 0.0
    nonlinearity_mismatch: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "nonlinearity", -0.5, 0.5)  # beyond, more current could mean fewer periods
        check_number(self, "nonlinearity_mismatch", 0.0, 0.5)

    @property
    def max_code(self) -> float:
        """Periods in a window at the full current."""
        return 2.0 ** (self.bits - 1)

    @property
    def own_errors(self) -> tuple[Tolerance, ...]:
        """The non-linearity."""
        return ((self.nonlinearity, self.nonlinearity_mismatch),)

    def levels(self, v: Tensor, own: Sequence[Tensor], noise: Noise) -> Tensor:
        """Whole periods, with the current's sign."""
        size = v.abs()
        count = torch.floor(size * (1.0 - own[0] * (size / self.max_code).clamp(max=1.0)))
        return v.sign() * count.clamp(0.0, self.max_code - 1.0)
