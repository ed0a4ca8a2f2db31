"""Word-line converters: all bits at once, or bit by bit."""

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
    """Inputs of the word lines in one step of a product, and the factor of its result."""

    x: Tensor
    """Inputs ``[samples, in]`` or ``[samples, channels, ...]``."""
    factor: float = 1.0
    """Digital factor of the converted result."""
    square: Tensor | None = None
    """Square of the inputs in the variance of read noise, if it is not ``x^2``."""
    noise: float = 1.0
    """Factor of the output noise."""


@dataclass(frozen=True, kw_only=True)
class InputConverter(Configuration, ABC):
    """Digital-to-analog converter of a word line: clips to the range and rounds to ``2**bits - 2`` steps.

    Gradients are straight-through: within the range the gradient of the output passes to the input, whatever the
    errors; outside, it goes to the range.

    Args:
        bits: resolution, 2 to 16; 8 bits are 254 steps, 127 on each side of 0.
        range: input that drives the line fully.
        gain_error: mean relative error of the signal on a line.
        gain_mismatch: standard deviation of that error between word lines.
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
        """Number of steps on each side of 0."""
        return 2.0 ** (self.bits - 1) - 1.0

    @property
    def errors(self) -> tuple[Tolerance, ...]:
        """Tolerances of all errors of a word-line converter, gain first."""
        return ((self.gain_error, self.gain_mismatch),)

    @property
    def trains_in_memory(self) -> bool:
        """Whether the converter is ideal and applies all bits at once, as training in the memory requires."""
        return not any(value != 0.0 for tolerance in self.errors for value in tolerance)

    @property
    def at_once(self) -> bool:
        """Whether a line is driven once per product, with all bits of its input."""
        return True

    @property
    def drives_per_product(self) -> int:
        """How often the lines are driven one after another for one product."""
        return 1

    @property
    def fused(self) -> bool:
        """Whether the kernels implement this converter."""
        return False

    @abstractmethod
    def input_slices(self, driven: Tensor, input_range: Tensor, errors: Tensor | None) -> tuple[InputSlice, ...]:
        """Split a product into steps with the signals on the lines in each.

        Args:
            driven: outputs of ideal converters ``[samples, in]`` or ``[samples, channels, ...]``.
            input_range: range of the inputs, one element or one per row.
            errors: drawn errors ``[errors, converters]`` of the physical converters, or ``None``.

        Returns:
            One or more steps, whose results are multiplied by their factors and added.
        """


@final
@dataclass(frozen=True, kw_only=True)
class Dac(InputConverter):
    """Digital-to-analog converter of a word line that applies all bits at once.

    At level ``l`` [steps] the signal is ``l (1 + gain) + offset + INL(l)``, with the odd distortion of a differential
    driver, ``INL(l) = nonlinearity (3 sqrt(3) / 2) z (1 - z^2)`` and ``z = l / max_code``. The distortion is 0 at zero
    and at both ends, and ``nonlinearity`` at ``z = 1 / sqrt(3)``.

    Args:
        offset: mean shift [steps].
        offset_mismatch: standard deviation of the shift between word lines [steps].
        nonlinearity: mean of the largest deviation from a straight line [steps].
        nonlinearity_mismatch: standard deviation of that deviation between word lines [steps].
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
        """Tolerances of gain, offset [steps] and INL [steps]."""
        offset, bend = (self.offset, self.offset_mismatch), (self.nonlinearity, self.nonlinearity_mismatch)
        return (*super().errors, offset, bend)

    @property
    def fused(self) -> bool:
        """Whether the kernels implement this converter, which has no errors then: the kernels model none."""
        return self.trains_in_memory

    def input_slices(self, driven: Tensor, input_range: Tensor, errors: Tensor | None) -> tuple[InputSlice, ...]:
        """One step, with the errors of every line."""
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
    """A two-level driver that applies the bits of the magnitude of an input in sequence, with the sign of the input.

    ``accumulation`` selects where the results of the bits are weighted and added:

    - ``"digital"``: the result of each bit is converted, shifted and added digitally. Noise and rounding act once per
      bit, each on the whole range.
    - ``"analog"``: results are weighted and added as charge, and converted once. Noise acts once per bit with the
      weight of the bit.

    Devices are read once: their noise does not change during a product. Gradients through the bits follow
    ``phasegrad.crossbar.straight_through.bit_slice``.

    Args:
        accumulation: ``"digital"`` or ``"analog"``.

    References:
        Shafiee, A. et al. ISAAC: a convolutional neural network accelerator with in-situ analog arithmetic in
        crossbars. ACM/IEEE 43rd Annual International Symposium on Computer Architecture, 14-26 (2016), for
        ``"digital"``. https://doi.org/10.1109/ISCA.2016.12

        Xiao, T. P. et al. On the accuracy of analog neural network inference accelerators. IEEE Circuits Syst. Mag. 22
        (2022), for both. https://doi.org/10.1109/MCAS.2022.3214409
    """

    accumulation: str = "digital"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "accumulation", ("digital", "analog"))

    @property
    def at_once(self) -> bool:
        """Whether a line is driven once per product; always ``False``."""
        return False

    @property
    def trains_in_memory(self) -> bool:
        """Whether the converter suits training in the memory; always ``False``."""
        return False

    @property
    def drives_per_product(self) -> int:
        """The bits of the magnitude, one after another."""
        return self.bits - 1

    @property
    def factors(self) -> tuple[float, ...]:
        """Factor of each bit, least significant first."""
        return tuple(float(1 << k) / self.max_code for k in range(self.bits - 1))

    def input_slices(self, driven: Tensor, input_range: Tensor, errors: Tensor | None) -> tuple[InputSlice, ...]:
        """One step per bit, or one step with the noise of all bits."""
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
        """Signals ``[bits, *shape]`` on the lines for each bit, the whole range or 0."""
        z, full = _fraction(driven, input_range)
        size, on = torch.round(z.abs() * self.max_code).to(torch.int32), z.sign() * full
        ordinary = torch.isfinite(driven)
        bits = [torch.where(ordinary, (size >> k & 1) * on, driven) for k in range(self.bits - 1)]
        return torch.stack(bits).to(driven.dtype)


def _fraction(driven: Tensor, input_range: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs as fractions of the range, 0 where they are not finite or have no range; and the range."""
    full = input_range.detach().abs().float().reshape(-1, *[1] * (driven.dim() - 1))
    divisor = torch.where(full > 0, full, torch.ones_like(full))
    z = torch.where(torch.isfinite(driven), driven.float() / divisor, torch.zeros_like(driven, dtype=torch.float32))
    return torch.where(full > 0, z, torch.zeros_like(z)), full


def _by_line(errors: Tensor, driven: Tensor) -> tuple[Tensor, ...]:
    """The errors, each broadcastable to inputs ``[samples, in, ...]``."""
    return errors.view(len(errors), -1, *[1] * (driven.dim() - 2)).unbind()
