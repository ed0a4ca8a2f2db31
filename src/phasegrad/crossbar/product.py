"""The product of a tile: DAC, matrix, noise, ADC, digital sum over row-tiles.

Matrix and convolution differ in one thing, how a row-tile's part of the product is computed; everything around it is
shared and sees outputs ``[rows, channels, ...]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from phasegrad.crossbar import streams
from phasegrad.crossbar.converters import LearnedRange
from phasegrad.crossbar.hardware import Hardware
from phasegrad.ops.direct import call


class Periphery(NamedTuple):
    """The tensors that a layer's converters need."""

    input_range: Tensor | None
    """Range of the DAC, one element; ``None`` for the largest input of each row."""
    output_range: Tensor
    """Range of the ADC in units of ``max|w| max|x|``, one element."""


class Draw(NamedTuple):
    """How a digital weight is disturbed each time it is read; see :func:`phasegrad.ops.reference.noisy_weights`."""

    clip: Tensor
    """``[out]``: where weights are clipped."""
    level: Tensor
    """Factor of the noise, one element."""
    noise: tuple[float, float, float]
    drop: float


class Matrix(NamedTuple):
    """What the hardware computes with at this moment."""

    weight: Tensor
    """``[out, in]``, before ``draw``."""
    scale: Tensor
    """``[row tiles, out]``: the weight that a fully programmed cell stands for."""
    gain: Tensor | None
    """``[row tiles, out]``: digital correction of each tile's output, or ``None``."""
    read_noise: float
    """Output-referred short-term weight noise that is still to be added."""
    draw: Draw | None = None
    """What a read does to the weight, or ``None``: it is as the hardware has it."""

    def read(self, seed: Tensor, rows: int) -> Tensor:
        """The weight ``[out, in]`` as a read finds it, in tiles of so many rows."""
        if self.draw is None:
            return self.weight
        clip, level, *noise = self.draw
        return call("noisy_weights", self.weight, self.scale, clip, level, seed, streams.WEIGHTS, rows, *noise)


class Tiles(Protocol):
    """How inputs meet a matrix ``[out, in]``."""

    def whole(self, x: Tensor, w: Tensor) -> Tensor:
        """The exact product ``[rows, channels, ...]``."""
        ...

    def each(self, x: Tensor, w: Tensor) -> Sequence[Tensor]:
        """Every row-tile's part of it."""
        ...


@dataclass(frozen=True)
class LinearTiles:
    """Row-tiles of a matrix product."""

    rows: int

    def whole(self, x: Tensor, w: Tensor) -> Tensor:
        """The exact product ``[rows, out]``."""
        return F.linear(x, w)

    def each(self, x: Tensor, w: Tensor) -> Sequence[Tensor]:
        """Every row-tile's part of it."""
        return [F.linear(a, b) for a, b in zip(x.split(self.rows, dim=1), w.split(self.rows, dim=1), strict=True)]


@dataclass(frozen=True)
class ConvolutionTiles:
    """Row-tiles of a convolution, computed as convolutions.

    A tile's rows are a run of (channel, kernel position) pairs. Its product is a convolution over the channels that
    the run touches, with zeros where the first and the last channel lie outside the run; no unfolded copy of the
    input (9 times larger for a 3x3 kernel) is needed.
    """

    convolve: Callable[..., Tensor]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    rows: int

    def whole(self, x: Tensor, w: Tensor) -> Tensor:
        """The exact convolution ``[batch, channels, ...]``."""
        return self._product(x, w.view(w.shape[0], -1, *self.kernel_size))

    def each(self, x: Tensor, w: Tensor) -> Sequence[Tensor]:
        """Every row-tile's part of it."""
        if w.shape[1] <= self.rows:
            return [self.whole(x, w)]
        return [self._part(x, part, i * self.rows) for i, part in enumerate(w.split(self.rows, dim=1))]

    def _product(self, x: Tensor, kernel: Tensor) -> Tensor:
        # Channels last: convolution and pooling take half the time of the other order on a CPU, and the converters,
        # which see the channels of one position after another, need no copy.
        order = {4: torch.channels_last, 5: torch.channels_last_3d}.get(kernel.dim(), torch.contiguous_format)
        kernel = kernel.clone(memory_format=order)  # contiguous() would leave a kernel of one channel as it is
        return self.convolve(x, kernel, None, self.stride, self.padding, self.dilation, self.groups)

    def _part(self, x: Tensor, part: Tensor, start: int) -> Tensor:
        positions = torch.Size(self.kernel_size).numel()
        end = start + part.shape[1]
        first, last = start // positions, -(-end // positions)
        whole = F.pad(part, (start - first * positions, last * positions - end))
        by_group = x.unflatten(1, (self.groups, -1))[:, :, first:last].flatten(1, 2)
        return self._product(by_group, whole.view(part.shape[0], last - first, *self.kernel_size))


def convert_inputs(x: Tensor, input_range: Tensor | None, hardware: Hardware) -> tuple[Tensor, Tensor]:
    """What the word lines carry, and the range (one element, or one a row) that it is part of."""
    if input_range is None:
        input_range = x.detach().abs().flatten(1).amax(1)
    if hardware.dac is None:
        return x, input_range
    learned = hardware.dac.range
    decay, keep = (learned.decay, learned.keep) if isinstance(learned, LearnedRange) else (0.0, 1.0)
    return call("dac", x, input_range, hardware.dac.half, decay, keep), input_range


def product(x: Tensor, matrix: Matrix, tiles: Tiles, periphery: Periphery, hardware: Hardware, seed: Tensor) -> Tensor:
    """Multiply as the hardware does.

    Args:
        x: inputs ``[rows, in]`` or ``[rows, channels, ...]``.
        matrix: the weights and their scales.
        tiles: how each row-tile's part is computed.
        periphery: ranges of the converters.
        hardware: the hardware.
        seed: seed of this call's noise.

    Returns:
        ``[rows, out, ...]``, in the units of an exact product.
    """
    exact_outputs = hardware.adc is None and hardware.output_noise == 0 and matrix.read_noise == 0
    exact_outputs = exact_outputs and hardware.drop is None
    if exact_outputs:
        driven = x if hardware.dac is None else convert_inputs(x, periphery.input_range, hardware)[0]
        return tiles.whole(driven, _corrected(matrix.read(seed, hardware.rows), matrix.gain, hardware.rows))
    driven, input_range = convert_inputs(x, periphery.input_range, hardware)
    input_range = input_range.detach()
    if isinstance(tiles, LinearTiles) and hardware.drop is None and not torch.is_autocast_enabled(x.device.type):
        clip, level, *noise = matrix.draw or (None, None, (0.0, 0.0, 0.0), 0.0)
        return call(
            "tile_linear", driven, matrix.weight, matrix.scale, clip, level, matrix.gain, input_range,
            periphery.output_range, seed, streams.WEIGHTS, streams.OUTPUT, tiles.rows, *noise,
            *_conversion(matrix, hardware),
        )[0]  # fmt: skip
    weight = matrix.read(seed, hardware.rows)
    outputs = tile_outputs(driven, weight, matrix.scale, input_range, tiles, hardware)
    with torch.no_grad():
        spread = tiles.each(driven.detach().square(), weight.detach().abs()) if matrix.read_noise > 0 else []
    shape = outputs[0].shape
    if len(shape) > 2:
        outputs, spread = [_by_position(y) for y in outputs], [_by_position(v) for v in spread]
        if input_range.numel() > 1:
            input_range = input_range.repeat_interleave(shape[2:].numel())
    y = convert_outputs(outputs, spread, matrix, input_range, periphery.output_range, hardware, seed)
    return y if len(shape) == 2 else y.view(shape[0], *shape[2:], shape[1]).movedim(-1, 1)


def tile_outputs(
    x: Tensor, weight: Tensor, scale: Tensor, input_range: Tensor, tiles: Tiles, hardware: Hardware
) -> Sequence[Tensor]:
    """What each row-tile gives to its converters ``[rows, channels, ...]``.

    Args:
        x: what the word lines carry.
        weight: ``[out, in]``.
        scale: ``[row tiles, out]``.
        input_range: one element, or one a row.
        tiles: how each row-tile's part is computed.
        hardware: the hardware.
    """
    outputs, drop = tiles.each(x, weight), hardware.drop
    if drop is None:
        return outputs
    rows = [min(hardware.rows, weight.shape[1] - i) for i in range(0, weight.shape[1], hardware.rows)]
    ramped = tiles.each(x, weight * torch.cat([drop.ramp(n, weight) for n in rows]))
    sizes, lost, g_max = tiles.each(x.abs(), weight.abs()), [], hardware.cell.device.g_max
    for size, ramp, n, s in zip(sizes, ramped, rows, scale, strict=True):
        unit = s.to(size.dtype).view(-1, *[1] * (size.dim() - 2)) * input_range.view(-1, *[1] * (size.dim() - 1))
        lost.append(drop.lost(size / torch.where(unit > 0, unit, torch.ones_like(unit)), ramp, n, g_max))
    return [y - part for y, part in zip(outputs, lost, strict=True)]


def convert_outputs(
    outputs: Sequence[Tensor],
    spread: Sequence[Tensor],
    matrix: Matrix,
    input_range: Tensor,
    output_range: Tensor,
    hardware: Hardware,
    seed: Tensor,
) -> Tensor:
    """Noise, ADC, gain and digital sum of the tiles' outputs ``[rows, channels]``."""
    return call(
        "adc", outputs, spread, matrix.scale, matrix.gain, input_range, output_range, seed, streams.OUTPUT,
        *_conversion(matrix, hardware),
    )[0]  # fmt: skip


def _conversion(matrix: Matrix, hardware: Hardware) -> tuple[float, float, int, float]:
    """Noise and converter, as the ops take them."""
    adc = hardware.adc
    return hardware.output_noise, matrix.read_noise, adc.mode if adc else 0, adc.half if adc else 1.0


def _by_position(y: Tensor) -> Tensor:
    """``[rows, channels, ...]`` as ``[rows * positions, channels]``: noise is drawn in this order in any layout."""
    return y.movedim(1, -1).reshape(-1, y.shape[1])


def _corrected(weight: Tensor, gain: Tensor | None, rows: int) -> Tensor:
    """The weight times its tiles' gains, which then need no outputs of their own."""
    if gain is None:
        return weight
    return weight * gain.t().to(weight.dtype).repeat_interleave(rows, dim=1)[:, : weight.shape[1]]
