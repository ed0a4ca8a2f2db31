"""The product of a layer's tiles: DAC, tile product, noise, ADC, digital sum over row tiles and slices."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from phasegrad.crossbar import streams
from phasegrad.crossbar.bit_lines import Conversion, converted, tile_outputs
from phasegrad.crossbar.converters import InputSlice
from phasegrad.crossbar.hardware import Hardware
from phasegrad.crossbar.tile_weights import TileWeights
from phasegrad.crossbar.tilings import LinearTiling, Tiling
from phasegrad.crossbar.word_lines import Periphery, combined_input, dac_range, drive
from phasegrad.ops.direct import call, product_operand
from phasegrad.ops.row_linear import row_linear

_NO_DAC = (0.0, 0.0, 1.0)  # inputs that are converted already


def product(
    x: Tensor, weights: TileWeights, tiling: Tiling, periphery: Periphery, hardware: Hardware, seed: Tensor
) -> Tensor:
    """The product of the tiles.

    It is one fused op where possible, otherwise all pairs of input and weight slices, summed digitally.

    Args:
        x: inputs ``[samples, in]`` or ``[samples, channels, ...]``.
        weights: the weights of the tiles and their scales.
        tiling: assignment of the inputs to the rows of the tiles.
        periphery: ranges and errors of the converters.
        hardware: the hardware.
        seed: seed of this call's noise.

    Returns:
        ``[samples, out, ...]``, in the units of an exact product.
    """
    exact_outputs = hardware.adc is None and hardware.output_noise == 0 and weights.read_noise == 0
    if exact_outputs and hardware.ir_drop is None and hardware.integrator is None:
        driven = x if hardware.dac is None else combined_input(drive(x, periphery, hardware)[0])
        return tiling.product(driven, _total_weight(weights, seed, hardware.rows))
    input_range = dac_range(x) if periphery.input_range is None else periphery.input_range
    conversion = Conversion(input_range, periphery.output_range, hardware, seed)
    operand = _operand(x, weights, tiling)
    if operand is not None and hardware.fuses_inputs and weights.slice_factors is None:
        return _fused_product(operand, weights, conversion, hardware.dac_settings)
    of_row = _single_row(x, weights, conversion)
    if of_row is not None:
        return of_row
    slices, input_range = drive(x, periphery._replace(input_range=input_range), hardware)
    conversion = conversion._replace(input_range=input_range)
    parts = _slice_pairs(slices, weights, conversion, periphery.output_errors)
    total = _slice_product(*next(parts), tiling)
    for part in parts:
        total = total + _slice_product(*part, tiling)
    return total


def input_gradient(
    d: Tensor, weight: Tensor, shape: torch.Size, tiling: Tiling, output_range: Tensor, hardware: Hardware,
    seed: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The gradient of the inputs, which the same tiles compute when driven from their columns.

    Args:
        d: gradients of the outputs ``[samples, out]`` or ``[samples, channels, ...]``.
        weight: the weight ``[out, in]`` as one read sees it.
        shape: shape of the inputs.
        tiling: assignment of the inputs to the rows of the tiles.
        output_range: range of the ADC in units of ``max|w| max|x|``, one element.
        hardware: the hardware, with one scale for all columns.
        seed: seed of the noise; not needed on exact hardware.
    """
    if hardware.exact or seed is None:
        return tiling.input_gradient(d, weight, shape)
    transposed, noise_seed = hardware.transposed, seed

    def column_driven(rows: Tensor, part: Tensor, number: int) -> Tensor:
        scale = part.new_full((-(-len(part) // transposed.rows), part.shape[1]), float(transposed.scale))
        weights = TileWeights(part.t().contiguous(), scale, None, transposed.read_noise)
        periphery = Periphery(None, output_range.detach())
        return product(rows, weights, LinearTiling(transposed.rows), periphery, transposed, noise_seed + number)

    return tiling.tiled_input_gradient(d, weight, shape, column_driven)


def _slice_pairs(
    slices: Sequence[InputSlice], weights: TileWeights, conversion: Conversion, errors: Tensor | None
) -> Iterator[tuple[InputSlice, TileWeights, Conversion]]:
    """Pair each input slice with each weight slice, and include their significance in the gain."""
    count = len(weights.scale)
    pairs = itertools.product(slices, enumerate(weights.slices()))
    for i, (driven, (s, (factor, part))) in enumerate(pairs):
        of_slice = None if errors is None else errors[:, s * count : (s + 1) * count]
        offset = conversion.offset + i * streams.PART
        of_pair = conversion._replace(offset=offset, noise=driven.noise, errors=of_slice)
        yield driven, part._replace(gain=_scaled_gain(part.gain, factor * driven.factor, part.scale)), of_pair


def _scaled_gain(gain: Tensor | None, factor: float, like: Tensor) -> Tensor | None:
    if factor == 1.0:
        return gain
    return torch.full_like(like, factor) if gain is None else gain * factor


def _slice_product(driven: InputSlice, weights: TileWeights, conversion: Conversion, tiling: Tiling) -> Tensor:
    """The product of one input slice and one weight slice."""
    hardware, seed = conversion.hardware, conversion.seed
    operand = _operand(driven.x, weights, tiling)
    if operand is not None and hardware.fuses_outputs and driven.square is None:
        return _fused_product(operand, weights, conversion, _NO_DAC)
    outputs = tile_outputs(driven, weights, conversion.input_range, tiling, hardware, seed)
    return converted(outputs, weights, conversion)


def _operand(x: Tensor, weights: TileWeights, tiling: Tiling) -> Tensor | None:
    """The inputs of a fused product, or ``None`` if it cannot be fused."""
    fused = tiling.fused and weights.variance is None and weights.column_range is None
    return product_operand(x, weights.weight) if fused else None


def _fused_product(
    x: Tensor, weights: TileWeights, conversion: Conversion, dac_settings: tuple[float, float, float]
) -> Tensor:
    """Convert the inputs, read the weights, multiply, and convert the outputs, in one op."""
    hardware = conversion.hardware
    clip, level, (noise,), drop_connect = weights.perturbation or (None, None, ((0.0, 0.0, 0.0),), 0.0)
    return call(
        "tile_linear", x, weights.weight, weights.scale, clip, level, weights.gain, conversion.input_range,
        *dac_settings, conversion.output_range, conversion.seed, weights.stream, conversion.offset, hardware.rows,
        noise, drop_connect, hardware.output_noise * conversion.noise, weights.read_noise, *hardware.adc_settings,
    )[0]  # fmt: skip


def _single_row(x: Tensor, weights: TileWeights, conversion: Conversion) -> Tensor | None:
    """The product of one row of inputs, if the noise of its read is drawn for the outputs and kernels compute it."""
    hardware, variance = conversion.hardware, weights.variance
    if variance is None or not hardware.fuses_inputs:
        return None
    if weights.slice_factors is not None or weights.column_range is not None:
        return None
    return row_linear(
        x, weights.weight, variance, weights.scale, weights.gain, conversion.input_range, hardware.dac_settings[0],
        conversion.output_range, conversion.seed, conversion.offset, hardware.rows, *conversion.settings(weights),
    )  # fmt: skip


def _total_weight(weights: TileWeights, seed: Tensor, rows: int) -> Tensor:
    """The sum ``[out, in]`` of all slices of one read, with the gain."""
    slices = weights.slices()
    total = slices[0][1].read(seed, rows)
    if weights.slice_factors is not None:
        total = total * slices[0][0]
        for factor, part in slices[1:]:
            total = torch.add(total, part.read(seed, rows), alpha=factor)
    if weights.gain is None:
        return total
    gain = weights.gain.t().to(total.dtype).repeat_interleave(rows, dim=1)
    return total * gain[:, : total.shape[1]]
