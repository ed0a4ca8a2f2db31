"""Current-controlled oscillator whose periods are counted."""

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
    """Current-controlled oscillator: periods counted in a fixed window, with a sign and ``bits - 1`` bits of count.

    The frequency at a fraction ``m`` of the full current is ``m (1 - nonlinearity m)``. Only whole periods count, so
    that the count is rounded down and the level 0 is two steps wide. The frequency exceeds a straight line through the
    ends by ``nonlinearity m (1 - m) max_code`` counts, which lowers transitions by the same amount divided by the slope
    (INL). The counter stops at ``2^(bits - 1) - 1``. Frequencies differ by ``gain_mismatch``. Oscillators of this kind
    convert the columns of IBM's HERMES core. Without errors the converter is the ideal one (counter).

    Args:
        nonlinearity: mean relative reduction of the frequency at the full current.
        nonlinearity_mismatch: standard deviation of that reduction between converters.

    References:
        Khaddam-Aljameh, R. et al. HERMES-core: a 1.59-TOPS/mm2 PCM on 14-nm CMOS in-memory compute core using
        300-ps/LSB linearized CCO-based ADCs. IEEE J. Solid-State Circuits 57 (2022).
        https://doi.org/10.1109/JSSC.2022.3140414
    """

    nonlinearity: float = 0.0
    nonlinearity_mismatch: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(
            self, "nonlinearity", -0.5, 0.5
        )  # the frequency increases with the current only within these bounds
        check_number(self, "nonlinearity_mismatch", 0.0, 0.5)

    @property
    def max_code(self) -> float:
        """Number of periods in a window at the full current."""
        return 2.0 ** (self.bits - 1)

    @property
    def own_errors(self) -> tuple[Tolerance, ...]:
        """Tolerance of the non-linearity."""
        return ((self.nonlinearity, self.nonlinearity_mismatch),)

    def levels(self, v: Tensor, own: Sequence[Tensor], noise: Noise) -> Tensor:
        """Whole periods with the sign of the current [steps]."""
        size = v.abs()
        count = torch.floor(size * (1.0 - own[0] * (size / self.max_code).clamp(max=1.0)))
        return v.sign() * count.clamp(0.0, self.max_code - 1.0)
