"""Converters of word lines: all bits at once, or one after another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, final

import torch
from torch import Tensor

from phasegrad.configuration import Configuration, check_choice, check_integer, check_number, check_type
from phasegrad.crossbar.converters.base import Tolerance
from phasegrad.crossbar.converters.ranges import AbsMaxRange, FixedRange, LearnedRange
from phasegrad.crossbar.straight_through import bit_slice, straight_through
from phasegrad.deprecation import renamed_attributes

_LEARNED = LearnedRange()

__getattr__ = renamed_attributes(__name__, {"Phase": "InputSlice"})


class InputSlice(NamedTuple):
    """What the word lines carry in one step of a product, and what its result counts."""

    x: Tensor
    """Inputs ``[rows, in]`` or ``[rows, channels, ...]``."""
    factor: float = 1.0
    """What the converted result is multiplied by, digitally."""
    square: Tensor | None = None
    """The sum of squares that read noise sees, where that is not ``x^2``."""
    noise: float = 1.0
    """Factor of the output noise."""


@dataclass(frozen=True, kw_only=True)
class InputConverter(Configuration, ABC):
    """Digital-to-analog converter of a word line: clip to the range, round to ``2**bits - 2`` steps.

    Gradients are straight-through: inside the range that of the output is that of the input, whatever the errors;
    beyond, it belongs to the range.

    Args:
        bits: resolution, 2 to 16; 8 bits give 254 steps, 127 on each side of zero.
        range: what input drives the line fully.
        gain_error: mean relative deviation of what a line carries.
        gain_mismatch: its standard deviation between word lines.
    """

    bits: int = 8
    range: LearnedRange | FixedRange | AbsMaxRange = _LEARNED
    gain_error: float = 0.0
    gain_mismatch: float = 0.0

    _renamed: ClassVar[dict[str, str]] = {"half": "max_code", "phases": "input_slices"}

    def __post_init__(self) -> None:
        check_integer(self, "bits", 2, 16)
        check_type(self, "range", (LearnedRange, FixedRange, AbsMaxRange))
        check_number(self, "gain_error", -1.0, above=True)
        check_number(self, "gain_mismatch", 0.0)

    @property
    def max_code(self) -> float:
        """Steps on each side of zero."""
        return 2.0 ** (self.bits - 1) - 1.0

    @property
    def errors(self) -> tuple[Tolerance, ...]:
        """Every error of a word line's converter, the gain first."""
        return ((self.gain_error, self.gain_mismatch),)

    @property
    def trains_in_memory(self) -> bool:
        """Whether lines carry what the ideal converter gives, all bits at once."""
        return not any(value != 0.0 for tolerance in self.errors for value in tolerance)

    @property
    def at_once(self) -> bool:
        """Whether a line is driven once in a product, with all bits of its input."""
        return True

    @abstractmethod
    def input_slices(self, driven: Tensor, input_range: Tensor, errors: Tensor | None) -> tuple[InputSlice, ...]:
        """What the lines carry.

        Args:
            driven: what ideal converters give.
            input_range: its range, one element, or one a row.
            errors: ``[errors, lines]`` of the physical converters, or ``None``.
        """


@final
@dataclass(frozen=True, kw_only=True)
class Dac(InputConverter):
    """Digital-to-analog converter of a word line that gives all bits at once.

    At level ``l`` [steps] the line carries ``l (1 + gain) + offset + INL(l)``, with the odd distortion of a
    differential driver, ``INL(l) = nonlinearity (3 sqrt(3) / 2) z (1 - z^2)``, ``z = l / max_code``: nothing at zero and at
    the ends, the whole ``nonlinearity`` at ``z = 1 / sqrt(3)``.

    Args:
        offset: mean shift [steps].
        offset_mismatch: its standard deviation between word lines [steps].
        nonlinearity: mean of the largest deviation from a straight line [steps].
        nonlinearity_mismatch: its standard deviation between word lines [steps].
    """

    offset: float = 0.0
    offset_mismatch: float = 0.0
    nonlinearity: float = 0.0
    nonlinearity_mismatch: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "offset", -float(1 << self.bits))
        check_number(self, "offset_mismatch", 0.0)
        check_number(self, "nonlinearity", -float(1 << self.bits))
        check_number(self, "nonlinearity_mismatch", 0.0)

    @property
    def errors(self) -> tuple[Tolerance, ...]:
        """Gain, offset [steps], INL [steps]."""
        offset, bend = (self.offset, self.offset_mismatch), (self.nonlinearity, self.nonlinearity_mismatch)
        return (*super().errors, offset, bend)

    def input_slices(self, driven: Tensor, input_range: Tensor, errors: Tensor | None) -> tuple[InputSlice, ...]:
        """One, with every line's errors."""
        if errors is None:
            return (InputSlice(driven),)
        with torch.no_grad():
            z, full = _fraction(driven, input_range)
            gain, offset, bend = _by_line(errors, driven)
            deviation = z * gain + (offset + bend * (1.5 * 3.0**0.5) * z * (1.0 - z.square())) / self.max_code
            carried = torch.where(torch.isfinite(driven), driven + deviation * full, driven).to(driven.dtype)
        return (InputSlice(straight_through(carried, driven)),)


@final
@dataclass(frozen=True, kw_only=True)
class BitSerialDac(InputConverter):
    """A driver of two levels that applies the bits of an input's size one after another, with the input's sign.

    ``accumulation`` says where the bits' results are weighted and added:

    - ``"digital"``: each bit's result is converted, then shifted and added; noise and rounding act once a bit, each on
      a whole range of its own.
    - ``"analog"``: results are weighted and added as charge, and converted once; noise acts once a bit, and counts with
      the bit's weight.

    Devices are read once: their noise does not change within the time of a product. Gradients treat the bits as
    :func:`phasegrad.crossbar.straight_through.bit_slice` says.

    Args:
        accumulation: ``"digital"`` or ``"analog"``.
    """

    accumulation: str = "digital"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "accumulation", ("digital", "analog"))

    @property
    def at_once(self) -> bool:
        """Once a bit."""
        return False

    @property
    def trains_in_memory(self) -> bool:
        """It does not: the update's pulses take whole numbers."""
        return False

    @property
    def factors(self) -> tuple[float, ...]:
        """What each bit counts, the least significant one first."""
        return tuple(float(1 << k) / self.max_code for k in range(self.bits - 1))

    def input_slices(self, driven: Tensor, input_range: Tensor, errors: Tensor | None) -> tuple[InputSlice, ...]:
        """One a bit, or one with the noise of all."""
        bits, carried = self._bits(driven, input_range), driven
        if errors is not None:
            gain = (1.0 + _by_line(errors, driven)[0]).to(driven.dtype)
            bits, carried = bits * gain, straight_through(driven.detach() * gain, driven)
        if self.accumulation == "digital":
            slices = bit_slice(driven, bits, self.factors)
            return tuple(InputSlice(x, f) for x, f in zip(slices.unbind(), self.factors, strict=True))
        squares = torch.stack([(f * x).square() for x, f in zip(bits.unbind(), self.factors, strict=True)]).sum(0)
        return (InputSlice(carried, 1.0, squares, sum(f * f for f in self.factors) ** 0.5),)

    @torch.no_grad()
    def _bits(self, driven: Tensor, input_range: Tensor) -> Tensor:
        """``[bits, *shape]``: what the lines carry for each bit, the whole range or nothing."""
        z, full = _fraction(driven, input_range)
        size, on = torch.round(z.abs() * self.max_code).to(torch.int32), z.sign() * full
        ordinary = torch.isfinite(driven)
        bits = [torch.where(ordinary, (size >> k & 1) * on, driven) for k in range(self.bits - 1)]
        return torch.stack(bits).to(driven.dtype)


def _fraction(driven: Tensor, input_range: Tensor) -> tuple[Tensor, Tensor]:
    """What is driven as a fraction of the range, 0 where it is not finite or there is no range; and the range."""
    full = input_range.detach().abs().float().reshape(-1, *[1] * (driven.dim() - 1))
    divisor = torch.where(full > 0, full, torch.ones_like(full))
    z = torch.where(torch.isfinite(driven), driven.float() / divisor, torch.zeros_like(driven, dtype=torch.float32))
    return torch.where(full > 0, z, torch.zeros_like(z)), full


def _by_line(errors: Tensor, driven: Tensor) -> tuple[Tensor, ...]:
    """Each error, shaped to broadcast over inputs ``[rows, lines, ...]``."""
    return errors.view(len(errors), -1, *[1] * (driven.dim() - 2)).unbind()
