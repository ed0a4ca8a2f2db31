"""Converters of 1.5-bit stages: a pipeline of stages, or one stage in a cycle.

A stage compares its input ``x`` in [-1, 1], in units of the reference voltage, with thresholds at ``+-1/4``, outputs
the digit ``d`` in {-1, 0, 1}, and passes on the residue ``2 x - d``. Digits overlap: a threshold error below 1/4
changes digit and residue but not the code (digital correction). An error ``e`` of the residue gain,
``(1 + e) (2 x - d)``, is not corrected.

References:
    Lewis, S. H. et al. A 10-b 20-Msample/s analog-to-digital converter. IEEE J. Solid-State Circuits 27, 351-358
    (1992).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from phasegrad.configuration import check_number
from phasegrad.crossbar.converters.base import Noise, OutputConverter, Tolerance


def _digits(v: Tensor, bits: int, stages: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Code [steps] of stages, each with residue gain, upper and lower threshold, and of a last comparison."""
    x, code = v / float(1 << (bits - 1)), torch.zeros_like(v)
    for gain, upper, lower in stages:
        digit = (x > 0.25 + upper).to(v.dtype) - (x < -0.25 + lower).to(v.dtype)
        code = 2.0 * code + digit
        x = (2.0 * x - digit) * (1.0 + gain)
    max_code = 2.0 ** (bits - 1) - 1.0
    return (code + torch.round(x).clamp(-1.0, 1.0)).clamp(-max_code, max_code)


@dataclass(frozen=True, kw_only=True)
class _StageErrors(OutputConverter):
    residue_gain_error: float = 0.0
    residue_gain_mismatch: float = 0.0
    threshold_mismatch: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "residue_gain_error", -0.5, 0.5)
        check_number(self, "residue_gain_mismatch", 0.0, 0.5)
        check_number(self, "threshold_mismatch", 0.0, 0.5)

    @property
    def _stage(self) -> tuple[Tolerance, ...]:
        """Tolerances of residue gain, upper and lower threshold of one stage."""
        threshold = (0.0, self.threshold_mismatch)
        return ((self.residue_gain_error, self.residue_gain_mismatch), threshold, threshold)


@final
@dataclass(frozen=True, kw_only=True)
class PipelineAdc(_StageErrors):
    """Pipeline of ``bits - 1`` stages of 1.5 bits, each with its own errors, and a last comparison.

    At ``+-1/4`` of the reference, where the digit of the first stage changes, a gain error ``e`` makes the code jump by
    ``-e 2^(bits - 2)`` steps (DNL has the opposite sign); each following stage causes half the jump. Threshold errors
    of up to 1/4 of the reference have no effect. Without errors the converter is the ideal one (mid-tread).

    Args:
        residue_gain_error: mean relative error of the residue gain.
        residue_gain_mismatch: standard deviation of that error between stages.
        threshold_mismatch: standard deviation of a threshold, in units of the reference voltage.
    """

    @property
    def own_errors(self) -> tuple[Tolerance, ...]:
        """Three tolerances per stage."""
        return self._stage * (self.bits - 1)

    def levels(self, v: Tensor, own: Sequence[Tensor], noise: Noise) -> Tensor:
        """Code of the digits of all stages, each with twice the weight of the next [steps]."""
        return _digits(v, self.bits, list(zip(own[::3], own[1::3], own[2::3], strict=True)))


@final
@dataclass(frozen=True, kw_only=True)
class CyclicAdc(_StageErrors):
    """One stage of 1.5 bits that converts its own residue in ``bits - 1`` cycles, and a last comparison.

    Every cycle uses the same stage with the same errors, which are those of a stage of ``PipelineAdc``. Without
    errors the converter is the ideal one (mid-tread).

    Args:
        residue_gain_error: mean relative error of the residue gain.
        residue_gain_mismatch: standard deviation of that error between converters.
        threshold_mismatch: standard deviation of a threshold, in units of the reference voltage.
    """

    @property
    def own_errors(self) -> tuple[Tolerance, ...]:
        """The three tolerances of the stage."""
        return self._stage

    def levels(self, v: Tensor, own: Sequence[Tensor], noise: Noise) -> Tensor:
        """Code of the digits of all cycles, each with twice the weight of the next [steps]."""
        gain, upper, lower = own
        return _digits(v, self.bits, [(gain, upper, lower)] * (self.bits - 1))
