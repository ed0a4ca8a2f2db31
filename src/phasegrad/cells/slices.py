"""Weights cut into bits that lie on devices of their own, are converted on their own, and are added digitally."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from phasegrad.cells.base import Cell
from phasegrad.configuration import check_integer


@dataclass(frozen=True, kw_only=True)
class _Slices(Cell, ABC):
    """What the two mappings share.

    A weight in [-1, 1] is rounded to ``c / M``, ``M = 2^(bits - 1) - 1``. An unsigned number (the size of ``c``, or
    ``c`` and an offset) is cut into ``slices`` runs of bits, the least significant first, as even as they can be. A
    slice of ``k`` bits at bit ``p`` holds its digit as ``digit / (2^k - 1)`` of the device's range, and counts
    ``2^p (2^k - 1) / M``.
    """

    bits: int = 8
    slices: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "bits", 2, 16)
        check_integer(self, "slices", 1, 1 << 10)
        if self.slices > self._cut_bits:
            raise ValueError(
                f"{type(self).__name__}: slices = {self.slices}, but a weight of bits = {self.bits} has "
                f"{self._cut_bits} to cut; give at most {self._cut_bits} slices, or more bits"
            )

    @property
    @abstractmethod
    def _cut_bits(self) -> int:
        """Bits of the number that is cut."""

    @property
    def _largest(self) -> float:
        return float((1 << (self.bits - 1)) - 1)

    @property
    def _runs(self) -> list[tuple[int, int]]:
        """Where each slice starts, and how many bits it has."""
        each, more = divmod(self._cut_bits, self.slices)
        widths = [each + 1] * more + [each] * (self.slices - more)
        return [(sum(widths[:i]), width) for i, width in enumerate(widths)]

    @property
    def slice_factors(self) -> tuple[float, ...]:
        """What a full device of each slice counts."""
        return tuple(float(((1 << width) - 1) << start) / self._largest for start, width in self._runs)

    def _code(self, weight: Tensor) -> Tensor:
        """The weight's integer, as a float; NaN becomes 0."""
        return torch.round(torch.nan_to_num(weight, nan=0.0).clamp(-1.0, 1.0).double() * self._largest)

    def _digits(self, number: Tensor) -> Tensor:
        """Digits of unsigned numbers, ``[slices, *shape]``, each as a part of its slice's largest."""
        whole = number.to(torch.int64)
        digits = [(whole >> start & ((1 << width) - 1)).double() / ((1 << width) - 1) for start, width in self._runs]
        return torch.stack(digits)

    def pulsed(self, update: int) -> tuple[int, int]:
        """None."""
        raise ValueError(
            f"{type(self).__name__}: pulses cannot train slices, since a carry would cross them; train a "
            "DifferentialPair, or leave pulses out and train digitally"
        )


@final
@dataclass(frozen=True, kw_only=True)
class DifferentialSlices(_Slices):
    """Slices of pairs: the size's ``bits - 1`` bits are cut, and the sign chooses the device of each pair.

    Args:
        device: of every slice.
        bits: of the weight, sign included, 2 to 16.
        slices: how many, at most ``bits - 1``.

    Raises:
        ValueError: more slices than bits; the message names both.

    Examples:
        >>> from phasegrad.devices import ideal_device
        >>> cell = DifferentialSlices(device=ideal_device(g_max=21e-6), bits=5, slices=2)
        >>> cell.slice_factors  # of 15: a digit of 0 to 3, and one of 0 to 3 four times as large
        (0.2, 0.8)
        >>> cell.targets(torch.tensor([-6 / 15])) * 1e6  # -6 is -(1 * 4 + 2)
        tensor([[ 0.],
                [14.],
                [ 0.],
                [ 7.]])
    """

    @property
    def _cut_bits(self) -> int:
        return self.bits - 1

    @property
    def factors(self) -> tuple[float, ...]:
        """A slice's significance, up and down, slice after slice."""
        return tuple(sign * f for f in self.slice_factors for sign in (1.0, -1.0))

    def bit_slice(self, weight: Tensor) -> Tensor:
        """Each slice's digit with the weight's sign."""
        code = self._code(weight)
        return (self._digits(code.abs()) * code.sign()).to(weight.dtype)

    def read_slices(self, conductance: Tensor) -> Tensor:
        """Each pair's difference."""
        pairs = conductance.unflatten(0, (self.slices, 2))
        return (pairs[:, 0] - pairs[:, 1]) / self.device.window

    def slice_targets(self, digits: Tensor) -> Tensor:
        """One device of each pair at the digit, the other at RESET."""
        up, down = digits.clamp(min=0.0), (-digits).clamp(min=0.0)
        return self.device.in_window(torch.stack((up, down), dim=1).flatten(0, 1))

    def targets(self, weight: Tensor) -> Tensor:
        """Of each digit."""
        return self.slice_targets(self.bit_slice(weight))


@final
@dataclass(frozen=True, kw_only=True)
class OffsetSlices(_Slices):
    """Slices of single devices: ``c + 2^(bits - 1)``, which is never negative, is cut; a reference column is taken off.

    Every tile has one more column, programmed to the offset (its most significant bit alone), whose current is taken
    from that of each column *before* the converter. The reference is made of devices like the others, so that what
    drift does to both cancels, and its own errors are shared by the columns of a tile.

    Args:
        device: of every slice.
        bits: of the weight, 2 to 16.
        slices: how many, at most ``bits``.

    Raises:
        ValueError: more slices than bits; the message names both.

    Examples:
        >>> from phasegrad.devices import ideal_device
        >>> cell = OffsetSlices(device=ideal_device(g_max=15e-6), bits=4, slices=2)
        >>> cell.targets(torch.tensor([-1.0, 0.0, 1.0])) * 1e6  # 1, 8, 15: digits 1, 0, 3 and 0, 2, 3
        tensor([[ 5.,  0., 15.],
                [ 0., 10., 15.]])
    """

    @property
    def _cut_bits(self) -> int:
        return self.bits

    @property
    def factors(self) -> tuple[float, ...]:
        """Each slice's significance."""
        return self.slice_factors

    @property
    def offset(self) -> float:
        """The exact reference."""
        rest = sum(self.slice_factors) * self.device.lowest / self.device.window
        return -float(1 << (self.bits - 1)) / self._largest - rest

    @property
    def has_reference(self) -> bool:
        """It has."""
        return True

    @property
    def _zero(self) -> list[float]:
        return self._digits(torch.tensor(float(1 << (self.bits - 1)))).tolist()

    def bit_slice(self, weight: Tensor) -> Tensor:
        """Each slice's digit, less the reference's."""
        digits = self._digits(self._code(weight) + float(1 << (self.bits - 1)))
        return (digits - digits.new_tensor(self._zero).view(-1, *[1] * weight.dim())).to(weight.dtype)

    def read_slices(self, conductance: Tensor) -> Tensor:
        """Each device, less an exact reference."""
        zero = conductance.new_tensor(self._zero).view(-1, *[1] * (conductance.dim() - 1))
        return conductance / self.device.window - (zero + self.device.lowest / self.device.window)

    def targets(self, weight: Tensor) -> Tensor:
        """Each device at its digit."""
        digits = self._digits(self._code(weight) + float(1 << (self.bits - 1)))
        return self.device.in_window(digits.to(weight.dtype))
