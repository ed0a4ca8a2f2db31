"""Signals on the word lines of a tile: inputs after the DAC, in one or several slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from phasegrad.crossbar.converters import InputSlice
from phasegrad.crossbar.hardware import Hardware
from phasegrad.ops.direct import call


class Periphery(NamedTuple):
    """The tensors of a layer's converters."""

    input_range: Tensor | None
    """Range of the DAC, one element; ``None`` for the largest absolute input of each sample."""
    output_range: Tensor
    """Range of the ADC in units of ``max|w| max|x|``, one element."""
    output_errors: Tensor | None = None
    """``[errors, tiles, out]``: errors of the ADC of every column, slice by slice, or ``None``."""
    input_errors: Tensor | None = None
    """``[errors, rows]``: errors of the DACs of the word lines, or ``None``."""

    def outputs(self, chosen: slice) -> Periphery:
        """The converters of a range of outputs."""
        errors = self.output_errors
        return self if errors is None else self._replace(output_errors=errors[:, :, chosen])


def convert_inputs(x: Tensor, input_range: Tensor | None, hardware: Hardware) -> tuple[Tensor, Tensor]:
    """Convert inputs with ideal DACs; return them with their range, one element or one per sample."""
    integrator = hardware.integrator
    if integrator is not None and integrator.full_input is not None:
        return x, x.new_full((1,), integrator.full_input)
    input_range = dac_range(x) if input_range is None else input_range
    if hardware.dac is None:
        return x, input_range
    return call("dac", x, input_range, *hardware.dac_settings), input_range


def dac_range(x: Tensor) -> Tensor:
    """The range of DACs whose range follows the input: the largest absolute input of each sample."""
    return x.detach().abs().flatten(1).amax(1)


def drive(x: Tensor, periphery: Periphery, hardware: Hardware) -> tuple[tuple[InputSlice, ...], Tensor]:
    """The input slices that drive the word lines one after another, and the range of the inputs."""
    driven, input_range = convert_inputs(x, periphery.input_range, hardware)
    input_range = input_range.detach()
    if hardware.dac is None:
        return (InputSlice(driven),), input_range
    return hardware.dac.input_slices(driven, input_range, periphery.input_errors), input_range


def combined_input(slices: Sequence[InputSlice]) -> Tensor:
    """The sum of all input slices, weighted by their significance."""
    first, *others = slices
    total = first.x if first.factor == 1.0 else first.x * first.factor
    for other in others:
        total = torch.add(total, other.x, alpha=other.factor)
    return total
