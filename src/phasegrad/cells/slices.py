"""Bit-sliced weights: each slice is stored on its own devices, converted separately, and added digitally."""

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
    """Common part of both mappings.

    A weight in [-1, 1] is rounded to ``c / M`` with ``M = 2^(bits - 1) - 1``. The bits of an unsigned number, the
    magnitude of ``c`` or ``c`` plus an offset, are divided into ``slices`` groups of almost equal size, least
    significant first. A slice of ``k`` bits that starts at bit ``p`` stores its digit as the fraction
    ``digit / (2^k - 1)`` of the device's window and has the factor ``2^p (2^k - 1) / M`` in the sum.
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
                f"{self._cut_bits} bits to slice; give at most {self._cut_bits} slices, or more bits"
            )

    @property
    @abstractmethod
    def _cut_bits(self) -> int:
        """Bits of the unsigned number that is divided into slices."""

    @property
    def _largest(self) -> float:
        return float((1 << (self.bits - 1)) - 1)

    @property
    def _runs(self) -> list[tuple[int, int]]:
        """First bit and number of bits of each slice."""
        each, more = divmod(self._cut_bits, self.slices)
        widths = [each + 1] * more + [each] * (self.slices - more)
        return [(sum(widths[:i]), width) for i, width in enumerate(widths)]

    @property
    def slice_factors(self) -> tuple[float, ...]:
        """Factor of each slice in the digital sum."""
        return tuple(float(((1 << width) - 1) << start) / self._largest for start, width in self._runs)

    def _code(self, weight: Tensor) -> Tensor:
        """Integer code of a weight, as float64; NaN becomes 0."""
        return torch.round(torch.nan_to_num(weight, nan=0.0).clamp(-1.0, 1.0).double() * self._largest)

    def _digits(self, number: Tensor) -> Tensor:
        """Digits of unsigned numbers, ``[slices, *shape]``, each as a fraction of the largest digit of its slice."""
        whole = number.to(torch.int64)
        digits = [(whole >> start & ((1 << width) - 1)).double() / ((1 << width) - 1) for start, width in self._runs]
        return torch.stack(digits)

    def pulsed(self, update: int) -> tuple[int, int]:
        """Raise, because pulses cannot train slices."""
        raise ValueError(
            f"{type(self).__name__}: pulses cannot train slices, because they cannot carry from one slice to the "
            "next; use a DifferentialPair, or Hardware(pulses=None)"
        )


@final
@dataclass(frozen=True, kw_only=True)
class DifferentialSlices(_Slices):
    """Slices of pairs: the ``bits - 1`` bits of the magnitude are sliced; the sign selects the device of each pair.

    Args:
        device: kind of all devices.
        bits: bits of the weight, sign included, 2 to 16.
        slices: number of slices, at most ``bits - 1``.

    Raises:
        ValueError: there are more slices than bits.

    References:
        Xiao, T. P. et al. On the accuracy of analog neural network inference accelerators. IEEE Circuits Syst. Mag. 22
        (2022). https://doi.org/10.1109/MCAS.2022.3214409

    Examples:
        >>> from phasegrad.devices import ideal_device
        >>> cell = DifferentialSlices(device=ideal_device(g_max=21e-6), bits=5, slices=2)
        >>> cell.slice_factors  # 3/15 and 12/15: two digits of 0 to 3
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
        """The factor of each slice, with both signs, for each pair."""
        return tuple(sign * f for f in self.slice_factors for sign in (1.0, -1.0))

    def bit_slice(self, weight: Tensor) -> Tensor:
        """The digit of each slice with the sign of the weight, ``[slices, *shape]``."""
        code = self._code(weight)
        return (self._digits(code.abs()) * code.sign()).to(weight.dtype)

    def read_slices(self, conductance: Tensor) -> Tensor:
        """The difference of each pair over the window, ``[slices, *shape]``."""
        pairs = conductance.unflatten(0, (self.slices, 2))
        return (pairs[:, 0] - pairs[:, 1]) / self.device.window

    def slice_targets(self, digits: Tensor) -> Tensor:
        """Target conductances [S]: one device of each pair at the digit, the other at RESET."""
        up, down = digits.clamp(min=0.0), (-digits).clamp(min=0.0)
        return self.device.in_window(torch.stack((up, down), dim=1).flatten(0, 1))

    def targets(self, weight: Tensor) -> Tensor:
        """Target conductances ``[devices, *shape]`` [S] of the digits of weights."""
        return self.slice_targets(self.bit_slice(weight))


@final
@dataclass(frozen=True, kw_only=True)
class OffsetSlices(_Slices):
    """Slices of single devices: ``c + 2^(bits - 1)``, which is never negative, is sliced; a reference is subtracted.

    Every tile has a reference column that is programmed to the offset, of which only the most significant bit is set.
    Its current is subtracted from that of each column *before* the converter. The reference consists of the same kind
    of devices, so that drift common to both cancels; errors of the reference are common to all columns of a tile.

    Args:
        device: kind of all devices.
        bits: bits of the weight, 2 to 16.
        slices: number of slices, at most ``bits``.

    Raises:
        ValueError: there are more slices than bits.

    References:
        Shafiee, A. et al. ISAAC: a convolutional neural network accelerator with in-situ analog arithmetic in
        crossbars. ACM/IEEE 43rd Annual International Symposium on Computer Architecture, 14-26 (2016).
        https://doi.org/10.1109/ISCA.2016.12

        Xiao, T. P. et al. On the accuracy of analog neural network inference accelerators. IEEE Circuits Syst. Mag. 22
        (2022). https://doi.org/10.1109/MCAS.2022.3214409

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
        """The factor of each slice."""
        return self.slice_factors

    @property
    def offset(self) -> float:
        """Weight of an exact reference."""
        rest = sum(self.slice_factors) * self.device.lowest / self.device.window
        return -float(1 << (self.bits - 1)) / self._largest - rest

    @property
    def has_reference(self) -> bool:
        """Whether each tile has a reference column; always ``True``."""
        return True

    @property
    def _zero(self) -> list[float]:
        return self._digits(torch.tensor(float(1 << (self.bits - 1)))).tolist()

    def bit_slice(self, weight: Tensor) -> Tensor:
        """The digit of each slice minus that of the reference, ``[slices, *shape]``."""
        digits = self._digits(self._code(weight) + float(1 << (self.bits - 1)))
        return (digits - digits.new_tensor(self._zero).view(-1, *[1] * weight.dim())).to(weight.dtype)

    def read_slices(self, conductance: Tensor) -> Tensor:
        """The conductance of each device over the window, minus an exact reference, ``[slices, *shape]``."""
        zero = conductance.new_tensor(self._zero).view(-1, *[1] * (conductance.dim() - 1))
        return conductance / self.device.window - (zero + self.device.lowest / self.device.window)

    def targets(self, weight: Tensor) -> Tensor:
        """Target conductances ``[devices, *shape]`` [S], each device at its digit."""
        digits = self._digits(self._code(weight) + float(1 << (self.bits - 1)))
        return self.device.in_window(digits.to(weight.dtype))
