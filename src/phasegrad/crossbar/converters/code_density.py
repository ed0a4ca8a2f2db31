"""Measurement of the transfer curve, DNL and INL of converters."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from phasegrad import argument_checks as checks
from phasegrad.crossbar.converters.base import OutputConverter
from phasegrad.crossbar.converters.state import draw_errors
from phasegrad.ops import reference


class Linearity(NamedTuple):
    """Response of converters to a slow ramp, one row per converter."""

    inputs: Tensor
    """Ramp ``[inputs]``, in units of the range."""
    outputs: Tensor
    """Outputs ``[converters, inputs]``, in units of the range."""
    levels: Tensor
    """Levels ``[levels]`` with a neighbour on both sides [steps]."""
    dnl: Tensor
    """Width of each level minus the mean width ``[converters, levels]`` [steps]."""
    inl: Tensor
    """Deviation of the upper end of each level from a straight line ``[converters, levels]`` [steps]."""


@torch.no_grad()
def linearity(adc: OutputConverter, converters: int = 1, *, seed: int = 0, oversampling: int = 64) -> Linearity:
    """Draw converters and measure them by code density, the part of a slow ramp at each level.

    DNL is the width of a level minus the mean width. INL is the sum of DNL from the lowest level upwards (end-point
    fit). The lowest and the highest level have no outer end and are omitted.

    Args:
        adc: kind of converter.
        converters: number of converters to draw.
        seed: seed of the errors and of the noise of the conversions.
        oversampling: inputs per step.

    Raises:
        TypeError: ``adc`` is not an output converter, or a number is not an integer.
        ValueError: a number is out of range.

    Examples:
        >>> from phasegrad.crossbar import PipelineAdc
        >>> measured = linearity(PipelineAdc(bits=8, residue_gain_error=-0.01))
        >>> measured.levels[measured.dnl[0].argmin()].item()  # the first digit changes at a quarter of the range
        -32.0
    """
    checks.instance("linearity", "adc", adc, OutputConverter, of="an output converter, such as SarAdc(bits=8)")
    converters = checks.integer("linearity", "converters", converters, 1)
    oversampling = checks.integer("linearity", "oversampling", oversampling, 1)
    key = torch.tensor([checks.integer("linearity", "seed", seed, -(2**63), 2**63 - 1)])
    errors = draw_errors(adc.errors, (converters, 1), key, 0)
    count = int(2 * adc.max_code) * oversampling
    inputs = (torch.arange(count) + 0.5) / (0.5 * count) - 1.0

    def noise(decision: int) -> Tensor:
        return reference.normal(key, 1 << 20 | decision, (converters, count))

    outputs = adc.convert(inputs.expand(converters, -1), torch.ones(1), errors.unbind(0), noise)
    steps = outputs * adc.max_code
    lowest, highest = int(torch.round(2 * steps.min())), int(torch.round(2 * steps.max()))
    bins = torch.round(2 * steps).long() - lowest  # in half steps, because mid-rise levels are between steps
    stride = 2
    counts = torch.zeros(converters, (highest - lowest) // stride + 1).scatter_add_(
        1, bins // stride, torch.ones_like(outputs)
    )
    inner = counts[:, 1:-1]
    dnl = inner / inner.mean(1, keepdim=True) - 1.0
    levels = torch.arange(lowest + stride, highest, stride) / 2.0
    return Linearity(inputs, outputs, levels, dnl, dnl.cumsum(1))
