"""The outputs of tiles before and after their converters, for every product of the library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from phasegrad.crossbar import streams
from phasegrad.crossbar.converters import InputSlice, OutputConverter
from phasegrad.crossbar.hardware import Hardware
from phasegrad.crossbar.mapping import expand_scale, nonzero
from phasegrad.crossbar.tile_weights import TileWeights
from phasegrad.crossbar.tilings import Tiling
from phasegrad.ops import reference
from phasegrad.ops.direct import call
from phasegrad.ops.in_place import adc_in_place


class TileOutputs(NamedTuple):
    """The outputs of the columns of each row tile before their converters, in units of an exact product."""

    values: Sequence[Tensor]
    """``[samples, columns, ...]`` of each row tile."""
    variances: Sequence[Tensor]
    """``sum_j |w_ij| x_j^2`` of each row tile, proportional to the variance of read noise; empty without read noise."""


class Conversion(NamedTuple):
    """Conversion of outputs to numbers: output noise, read noise, ADC."""

    input_range: Tensor
    """Range of the inputs, one element, or one per sample."""
    output_range: Tensor
    """Range of the ADC in units of ``max|w| max|x|``, one element."""
    hardware: Hardware
    seed: Tensor
    """Seed of the noise."""
    offset: int = streams.OUTPUT
    """Random stream of the first tile's noise."""
    noise: float = 1.0
    """Factor of the output noise."""
    errors: Tensor | None = None
    """``[errors, tiles, out]`` of the converters, or ``None``."""

    def settings(self, weights: TileWeights) -> tuple[float, float, int, float]:
        """Output noise, read noise, mode and largest code of the converter, as arguments of the ops."""
        return self.hardware.output_noise * self.noise, weights.read_noise, *self.hardware.adc_settings


def tile_outputs(
    driven: InputSlice, weights: TileWeights, input_range: Tensor, tiling: Tiling, hardware: Hardware, seed: Tensor
) -> TileOutputs:
    """The outputs of tiles before their converters.

    Args:
        driven: input slice on the word lines.
        weights: a single slice of weights.
        input_range: range of the inputs, one element, or one per sample.
        tiling: assignment of the inputs to the rows of the tiles.
        hardware: the hardware.
        seed: seed of the read of the weights.
    """
    if weights.variance is not None:
        y, v = call("row_products", driven.x[0], weights.weight, weights.variance, hardware.rows)
        return TileOutputs(y.unsqueeze(1).unbind(), v.unsqueeze(1).unbind())
    weight = weights.read(seed, hardware.rows)
    if hardware.integrator is not None:
        values = _charges(driven.x, weight, weights.scale, input_range, tiling, hardware)
    elif hardware.ir_drop is not None:
        values = _with_ir_drop(driven.x, weight, weights.scale, input_range, tiling, hardware)
    else:
        values = tiling.partial_products(driven.x, weight)
    if weights.read_noise == 0.0:
        return TileOutputs(values, [])
    with torch.no_grad():
        square = driven.x.detach().square() if driven.square is None else driven.square
        return TileOutputs(values, tiling.partial_products(square, weight.detach().abs()))


def converted(outputs: TileOutputs, weights: TileWeights, conversion: Conversion) -> Tensor:
    """The outputs ``[samples, columns, ...]`` of tiles after noise, ADC and gain, summed digitally over row tiles.

    Where no gradient is recorded, they may take the memory of the outputs before.
    """
    shape, (values, variances) = outputs.values[0].shape, outputs
    if len(shape) > 2:
        values, variances = [_by_position(y) for y in values], [_by_position(v) for v in variances]
        if conversion.input_range.numel() > 1:
            ranges = conversion.input_range.repeat_interleave(shape[2:].numel())
            conversion = conversion._replace(input_range=ranges)
    if weights.column_range is not None:
        values, weights, conversion = _in_units_of_columns(values, variances, weights, conversion)
        variances = []
    if conversion.hardware.unfused_adc is not None:
        y = _converted_unfused(TileOutputs(values, variances), weights, conversion, conversion.hardware.unfused_adc)
    else:
        arguments = (
            list(values), list(variances), weights.scale, weights.gain, conversion.input_range,
            conversion.output_range, conversion.seed, conversion.offset, *conversion.settings(weights),
        )  # fmt: skip
        y = adc_in_place(*arguments)
        y = call("adc", *arguments)[0] if y is None else y
    return y if len(shape) == 2 else y.view(shape[0], *shape[2:], shape[1]).movedim(-1, 1)


def _with_ir_drop(
    x: Tensor, weight: Tensor, scale: Tensor, input_range: Tensor, tiling: Tiling, hardware: Hardware
) -> Sequence[Tensor]:
    """Products reduced by the voltage drop on bit lines."""
    ir_drop = hardware.ir_drop
    assert ir_drop is not None
    rows = [min(hardware.rows, weight.shape[1] - i) for i in range(0, weight.shape[1], hardware.rows)]
    outputs = tiling.partial_products(x, weight)
    ramped = tiling.partial_products(x, weight * torch.cat([ir_drop.ramp(n, weight) for n in rows]))
    sizes = tiling.partial_products(x.abs(), weight.abs())
    reduced, g_max = [], hardware.cell.device.g_max
    for y, size, ramp, n, s in zip(outputs, sizes, ramped, rows, scale, strict=True):
        unit = s.to(size.dtype).view(-1, *[1] * (size.dim() - 2)) * input_range.view(-1, *[1] * (size.dim() - 1))
        lost = ir_drop.lost(size / torch.where(unit > 0, unit, torch.ones_like(unit)), ramp, n, g_max)
        reduced.append(y - lost)
    return reduced


def _charges(
    x: Tensor, weight: Tensor, scale: Tensor, input_range: Tensor, tiling: Tiling, hardware: Hardware
) -> Sequence[Tensor]:
    """The charges of integrating capacitors, in units of a product of amplitudes."""
    assert hardware.integrator is not None
    window = nonzero(input_range.detach().abs()).view(-1, *[1] * (x.dim() - 1)).to(x.dtype)
    full = expand_scale(nonzero(scale.detach()).to(weight.dtype), weight.shape[1], hardware)
    ticks = None if hardware.dac is None else int(hardware.dac.max_code)
    charges = tiling.charges(hardware.integrator, x / window, weight / full, ticks)
    units = [s.to(weight.dtype).view(-1, *[1] * (x.dim() - 2)) for s in nonzero(scale.detach())]
    return [charge * unit * window for charge, unit in zip(charges, units, strict=True)]


def _in_units_of_columns(
    values: Sequence[Tensor], variances: Sequence[Tensor], weights: TileWeights, conversion: Conversion
) -> tuple[Sequence[Tensor], TileWeights, Conversion]:
    """The outputs with their noise, and what converts them with the range of each column as the unit.

    The noise is that of the column, so it does not depend on the range, but kernels know a single unit for both.
    """
    assert weights.column_range is not None
    noisy = [_noisy(y, t, variances[t : t + 1], weights, conversion) for t, y in enumerate(values)]
    scale, one = weights.scale * weights.column_range.to(weights.scale.dtype), torch.ones_like(conversion.output_range)
    weights = weights._replace(scale=scale, read_noise=0.0, column_range=None)
    return noisy, weights, conversion._replace(output_range=one, noise=0.0)


def _noisy(y: Tensor, t: int, v: Sequence[Tensor], weights: TileWeights, conversion: Conversion) -> Tensor:
    """The outputs of row tile ``t`` with the noise of the tile and of its reads, before the converter."""
    output_noise, read_noise, *_ = conversion.settings(weights)
    if not v and output_noise == 0.0:
        return y
    ranges = (conversion.input_range, conversion.output_range.detach())
    settings = (output_noise, read_noise, reference.NO_CONVERTER, 1.0)
    arguments = (weights.scale[t : t + 1], None, *ranges, conversion.seed, conversion.offset + t)
    return call("adc", [y], list(v), *arguments, *settings)[0]


def _converted_unfused(
    outputs: TileOutputs, weights: TileWeights, conversion: Conversion, adc: OutputConverter
) -> Tensor:
    """Convert as ``converted`` does, tile by tile, with a converter that the fused kernels do not implement."""
    errors = conversion.errors
    if errors is None:
        errors = weights.scale.new_zeros(len(adc.errors), len(outputs.values), 1, dtype=torch.float32)
    total = torch.zeros_like(outputs.values[0])
    for t, y in enumerate(outputs.values):
        scale = weights.scale[t : t + 1]
        noisy = _noisy(y, t, outputs.variances[t : t + 1], weights, conversion)
        full = (conversion.output_range.to(y.dtype) * scale * conversion.input_range.view(-1, 1)).abs()
        decisions = _Decisions(conversion.seed, streams.DECISIONS + (conversion.offset + t) * 32, tuple(y.shape))
        codes = adc.convert(noisy, full, errors[:, t].unbind(), decisions)
        total = total + (codes if weights.gain is None else codes * weights.gain[t].to(y.dtype))
    return total


class _Decisions(NamedTuple):
    """Noise of the comparator decisions of one tile's converters, one draw per decision."""

    seed: Tensor
    offset: int
    shape: tuple[int, ...]

    def __call__(self, decision: int) -> Tensor:
        return call("normal", self.seed, self.offset + decision, self.shape)


def _by_position(y: Tensor) -> Tensor:
    """``[samples, channels, ...]`` as ``[samples * positions, channels]``: the order of noise in any memory layout."""
    return y.movedim(1, -1).reshape(-1, y.shape[1])
