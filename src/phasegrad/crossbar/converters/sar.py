"""Successive-approximation converter with a capacitor array."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from phasegrad.configuration import check_number
from phasegrad.crossbar.converters.base import Noise, OutputConverter, Tolerance


@final
@dataclass(frozen=True, kw_only=True)
class SarAdc(OutputConverter):
    """Successive-approximation converter: the input is compared with sums of binary-weighted capacitors, bit by bit.

    The capacitor of bit ``i`` consists of ``2^i`` unit capacitors. Its relative error has the standard deviation
    ``capacitor_mismatch / sqrt(2^i)``. One more unit completes the array, whose total defines the range. At mid-scale,
    where the largest capacitor replaces all others, DNL has the standard deviation
    ``capacitor_mismatch sqrt(2^bits - 1)`` steps, and INL half of that. The offset of the comparator is ``offset``; its
    noise is drawn at each of the ``bits`` decisions. Without errors the converter is the ideal one (mid-tread).

    Args:
        capacitor_mismatch: relative standard deviation of a unit capacitor.
        comparator_noise: standard deviation of the noise at each decision [steps].

    References:
        McCreary, J. L. & Gray, P. R. All-MOS charge redistribution analog-to-digital conversion techniques - part I.
        IEEE J. Solid-State Circuits 10, 371-379 (1975), for the capacitor array; its errors follow from independent
        unit capacitors. https://doi.org/10.1109/JSSC.1975.1050629
    """

    capacitor_mismatch: float = 0.0
    comparator_noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "capacitor_mismatch", 0.0, 0.5)
        check_number(self, "comparator_noise", 0.0)

    def without_noise(self) -> SarAdc:
        """The same converter with a noiseless comparator."""
        return dataclasses.replace(self, comparator_noise=0.0)

    @property
    def own_errors(self) -> tuple[Tolerance, ...]:
        """Tolerances of the relative errors of the capacitors, least significant bit first, and of the last unit."""
        capacitors = tuple((0.0, self.capacitor_mismatch / math.sqrt(1 << i)) for i in range(self.bits))
        return (*capacitors, (0.0, self.capacitor_mismatch))

    def levels(self, v: Tensor, own: Sequence[Tensor], noise: Noise) -> Tensor:
        """Set each bit, most significant first, if the input exceeds the capacitors set so far plus that of the bit."""
        middle = float(1 << (self.bits - 1))
        capacitors = [(1 << i) * (1.0 + error) for i, error in enumerate(own[:-1])]
        unit = (torch.stack(capacitors).sum(0) + 1.0 + own[-1]) / (2.0 * middle)
        target = (v + (middle + 0.5)) * unit
        held, code = torch.zeros_like(v), torch.zeros_like(v)
        for bit in reversed(range(self.bits)):
            trial = held + capacitors[bit]
            seen = target + self.comparator_noise * noise(bit) if self.comparator_noise else target
            keep = seen >= trial
            held = torch.where(keep, trial, held)
            code = code + keep * float(1 << bit)
        return (code - middle).clamp(min=-self.max_code)
