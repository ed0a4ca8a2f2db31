"""Converters of 1.5-bit stages: one after another, or one that is used again and again.

A stage compares its input ``x`` in [-1, 1] (of the reference voltage) with two thresholds at ``+-1/4``, gives the
digit ``d`` in {-1, 0, 1}, and hands on the residue ``2 x - d``. Digits overlap: a threshold that is off by less than
1/4 gives another digit and another residue that stand for the same code (digital correction). What is not corrected is
the gain of the residue, ``(1 + e) (2 x - d)``.
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
    """The code [steps] of stages, each of residue gain, upper and lower threshold, and of a last comparison."""
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
        """Residue gain, upper and lower threshold of one stage."""
        threshold = (0.0, self.threshold_mismatch)
        return ((self.residue_gain_error, self.residue_gain_mismatch), threshold, threshold)


@final
@dataclass(frozen=True, kw_only=True)
class PipelineAdc(_StageErrors):
    """Pipeline of ``bits - 1`` stages of 1.5 bits, each with errors of its own, and a last comparison.

    Where the first stage's digit changes, at ``+-1/4`` of the reference, a gain error ``e`` makes the code jump by ``-e
    2^(bits - 2)`` steps (DNL: of opposite sign); the next stage's by half as much. Thresholds that are off by up to 1/4
    of the reference change nothing. Without errors the converter is the ideal one (end-point).

    Args:
        residue_gain_error: mean relative error of the residue's gain.
        residue_gain_mismatch: its standard deviation between stages.
        threshold_mismatch: standard deviation of a threshold, in units of the reference voltage.
    """

    @property
    def own_errors(self) -> tuple[Tolerance, ...]:
        """Three a stage."""
        return self._stage * (self.bits - 1)

    def levels(self, v: Tensor, own: Sequence[Tensor], noise: Noise) -> Tensor:
        """The digits of the stages, each twice the weight of the next."""
        return _digits(v, self.bits, list(zip(own[::3], own[1::3], own[2::3], strict=True)))


@final
@dataclass(frozen=True, kw_only=True)
class CyclicAdc(_StageErrors):
    """One stage of 1.5 bits that takes back its own residue, ``bits - 1`` times, and a last comparison.

    The stage is the same in every cycle, and so are its errors; they are those of :class:`PipelineAdc`. Without errors
    the converter is the ideal one (end-point).

    Args:
        residue_gain_error: mean relative error of the residue's gain.
        residue_gain_mismatch: its standard deviation between converters.
        threshold_mismatch: standard deviation of a threshold, in units of the reference voltage.
    """

    @property
    def own_errors(self) -> tuple[Tolerance, ...]:
        """Those of the stage."""
        return self._stage

    def levels(self, v: Tensor, own: Sequence[Tensor], noise: Noise) -> Tensor:
        """The digits of the cycles, each twice the weight of the next."""
        gain, upper, lower = own
        return _digits(v, self.bits, [(gain, upper, lower)] * (self.bits - 1))
