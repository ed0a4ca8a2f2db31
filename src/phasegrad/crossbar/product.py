"""The product of a tile: DAC, matrix, noise, ADC, digital sum over row-tiles.

Matrix and convolution differ in one thing, how a row-tile's part of the product is computed; everything around it is
shared and sees outputs ``[rows, channels, ...]``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from phasegrad.crossbar import streams
from phasegrad.crossbar.converters import InputConverter, LearnedRange, OutputConverter, Phase
from phasegrad.crossbar.duration import Integrator
from phasegrad.crossbar.hardware import Hardware
from phasegrad.crossbar.mapping import divisor, spread_scale
from phasegrad.ops import reference
from phasegrad.ops.direct import call


class Periphery(NamedTuple):
    """The tensors that a layer's converters need."""

    input_range: Tensor | None
    """Range of the DAC, one element; ``None`` for the largest input of each row."""
    output_range: Tensor
    """Range of the ADC in units of ``max|w| max|x|``, one element."""
    output_errors: Tensor | None = None
    """``[errors, tiles, out]``: errors of the ADC of every column, slice after slice, or ``None``."""
    input_errors: Tensor | None = None
    """``[errors, lines]``: errors of the DACs, or ``None``."""

    def part(self, outputs: slice) -> Periphery:
        """That of some of the outputs."""
        errors = self.output_errors
        return self if errors is None else self._replace(output_errors=errors[:, :, outputs])


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
    """``[out, in]``, before ``draw``; of weights in slices ``[slices, out, in]``."""
    scale: Tensor
    """``[row tiles, out]``: the weight that a fully programmed cell stands for."""
    gain: Tensor | None
    """``[row tiles, out]``: digital correction of each tile's output, or ``None``."""
    read_noise: float
    """Output-referred short-term weight noise that is still to be added."""
    draw: Draw | None = None
    """What a read does to the weight, or ``None``: it is as the hardware has it."""
    factors: tuple[float, ...] | None = None
    """What each slice counts in the digital sum; ``None`` for a weight that is not in slices."""
    stream: int = streams.WEIGHTS
    """The stream that ``draw`` takes."""

    def slices(self) -> tuple[tuple[float, Matrix], ...]:
        """Every slice as a matrix of its own, with what it counts."""
        if self.factors is None:
            return ((1.0, self),)
        return tuple(
            (factor, self._replace(weight=weight, factors=None, stream=self.stream + 2 * i))
            for i, (factor, weight) in enumerate(zip(self.factors, self.weight.unbind(), strict=True))
        )

    def read(self, seed: Tensor, rows: int) -> Tensor:
        """The weight ``[out, in]`` as a read finds it, in tiles of so many rows."""
        if self.draw is None:
            return self.weight
        clip, level, *noise = self.draw
        return call("noisy_weights", self.weight, self.scale, clip, level, seed, self.stream, rows, *noise)

    def drawn(self, seed: Tensor, rows: int) -> Matrix:
        """The same after one read: what ``draw`` does is done, for all products that follow."""
        if self.draw is None:
            return self
        parts = [part.read(seed, rows) for _, part in self.slices()]
        return self._replace(weight=parts[0] if self.factors is None else torch.stack(parts), draw=None)

    def part(self, outputs: slice) -> Matrix:
        """The matrix of some of the outputs."""
        gain = None if self.gain is None else self.gain[:, outputs]
        draw = None if self.draw is None else self.draw._replace(clip=self.draw.clip[outputs])
        return self._replace(weight=self.weight[..., outputs, :], scale=self.scale[:, outputs], gain=gain, draw=draw)


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
    """What ideal converters put on the word lines, and the range (one element, or one per row) that it is part of."""
    integrator = hardware.integrator
    if integrator is not None and integrator.full_input is not None:
        return x, x.new_full((1,), integrator.full_input)
    input_range = _present_range(x, input_range)
    if hardware.dac is None:
        return x, input_range
    return call("dac", x, input_range, *_dac_settings(hardware.dac)), input_range


def _present_range(x: Tensor, input_range: Tensor | None) -> Tensor:
    return x.detach().abs().flatten(1).amax(1) if input_range is None else input_range


def _dac_settings(dac: InputConverter | None) -> tuple[float, float, float]:
    """Largest code, and decay and keep of a learned range, as the ops take them; a largest code of 0 for no DAC."""
    if dac is None:
        return 0.0, 0.0, 1.0
    learned = dac.range
    decay, keep = (learned.decay, learned.keep) if isinstance(learned, LearnedRange) else (0.0, 1.0)
    return dac.half, decay, keep


def drive(x: Tensor, periphery: Periphery, hardware: Hardware) -> tuple[tuple[Phase, ...], Tensor]:
    """What the word lines carry, step after step, and the range that it is part of."""
    driven, input_range = convert_inputs(x, periphery.input_range, hardware)
    input_range = input_range.detach()
    if hardware.dac is None:
        return (Phase(driven),), input_range
    return hardware.dac.phases(driven, input_range, periphery.input_errors), input_range


class Conversion(NamedTuple):
    """What stands between a tile's outputs and numbers."""

    input_range: Tensor
    output_range: Tensor
    hardware: Hardware
    seed: Tensor
    offset: int = streams.OUTPUT
    """The stream of the first tile's noise."""
    noise: float = 1.0
    """Factor of the output noise."""
    errors: Tensor | None = None
    """``[errors, tiles, out]`` of the converters, or ``None``."""

    @property
    def apart(self) -> OutputConverter | None:
        """The converter, where it is computed apart from the kernels that add noise and tiles."""
        adc = self.hardware.adc
        return adc if adc is not None and adc.mode == reference.NO_CONVERTER else None

    def fused(self, x: Tensor) -> bool:
        """Whether the op that fuses a matrix product with its conversions computes what this hardware does."""
        linear = self.hardware.drop is None and self.hardware.integrator is None
        return linear and self.apart is None and not torch.is_autocast_enabled(x.device.type)

    def settings(self, matrix: Matrix) -> tuple[float, float, int, float]:
        """Noise and converter, as the ops take them."""
        adc = self.hardware.adc
        mode, half = (adc.mode, adc.half) if adc else (reference.NO_CONVERTER, 1.0)
        return self.hardware.output_noise * self.noise, matrix.read_noise, mode, half


def product(x: Tensor, matrix: Matrix, tiles: Tiles, periphery: Periphery, hardware: Hardware, seed: Tensor) -> Tensor:
    """Multiply as the hardware does: every step of the inputs with every slice of the weights, added digitally.

    Args:
        x: inputs ``[rows, in]`` or ``[rows, channels, ...]``.
        matrix: the weights and their scales.
        tiles: how each row-tile's part is computed.
        periphery: ranges and errors of the converters.
        hardware: the hardware.
        seed: seed of this call's noise.

    Returns:
        ``[rows, out, ...]``, in the units of an exact product.
    """
    exact_outputs = hardware.adc is None and hardware.output_noise == 0 and matrix.read_noise == 0
    if exact_outputs and hardware.drop is None and hardware.integrator is None:
        driven = x if hardware.dac is None else _whole_input(drive(x, periphery, hardware)[0])
        return tiles.whole(driven, _whole_weight(matrix, seed, hardware.rows))
    input_range = _present_range(x, periphery.input_range)
    conversion = Conversion(input_range, periphery.output_range, hardware, seed)
    if (
        isinstance(tiles, LinearTiles) and matrix.factors is None and conversion.fused(x)
        and _drives_ideally(x, input_range, periphery, hardware.dac)
    ):  # fmt: skip
        return _tile_linear(x, matrix, conversion, tiles, hardware.dac)
    phases, input_range = drive(x, periphery._replace(input_range=input_range), hardware)
    conversion = conversion._replace(input_range=input_range)
    parts = _parts(phases, matrix, conversion, periphery.output_errors)
    total = _part(*next(parts), tiles)
    for part in parts:
        total = total + _part(*part, tiles)
    return total


def _parts(
    phases: Sequence[Phase], matrix: Matrix, conversion: Conversion, errors: Tensor | None
) -> Iterator[tuple[Phase, Matrix, Conversion]]:
    """Each step of the inputs with each slice of the weights; the gain is what it counts in the sum."""
    count = len(matrix.scale)
    for i, (phase, (s, (factor, part))) in enumerate(itertools.product(phases, enumerate(matrix.slices()))):
        own = None if errors is None else errors[:, s * count : (s + 1) * count]
        each = conversion._replace(offset=conversion.offset + i * streams.PART, noise=phase.noise, errors=own)
        yield phase, part._replace(gain=_times(part.gain, factor * phase.factor, part.scale)), each


def _times(gain: Tensor | None, factor: float, like: Tensor) -> Tensor | None:
    if factor == 1.0:
        return gain
    return torch.full_like(like, factor) if gain is None else gain * factor


def _drives_ideally(x: Tensor, input_range: Tensor, periphery: Periphery, dac: InputConverter | None) -> bool:
    """Whether the word lines carry at once what an ideal converter drives, which the fused op can compute itself."""
    if dac is None:
        return True
    if periphery.input_errors is not None or not dac.at_once:
        return False
    phases = dac.phases(x, input_range, None)  # an ideal one returns what it is given
    if len(phases) != 1:
        return False
    carried, factor, square, noise = phases[0]
    return carried is x and square is None and factor == noise == 1.0


def _tile_linear(
    x: Tensor, matrix: Matrix, conversion: Conversion, tiles: LinearTiles, dac: InputConverter | None
) -> Tensor:
    """Convert inputs, unless ``dac`` is ``None``, read the weights, multiply, and convert outputs, in one op."""
    clip, level, *noise = matrix.draw or (None, None, (0.0, 0.0, 0.0), 0.0)
    return call(
        "tile_linear", x, matrix.weight, matrix.scale, clip, level, matrix.gain, conversion.input_range,
        *_dac_settings(dac), conversion.output_range, conversion.seed, matrix.stream, conversion.offset, tiles.rows,
        *noise, *conversion.settings(matrix),
    )[0]  # fmt: skip


def _part(phase: Phase, matrix: Matrix, conversion: Conversion, tiles: Tiles) -> Tensor:
    x, input_range, seed = phase.x, conversion.input_range, conversion.seed
    if isinstance(tiles, LinearTiles) and phase.square is None and conversion.fused(x):
        return _tile_linear(x, matrix, conversion, tiles, None)
    weight = matrix.read(seed, conversion.hardware.rows)
    outputs = tile_outputs(x, weight, matrix.scale, input_range, tiles, conversion.hardware)
    with torch.no_grad():
        square = x.detach().square() if phase.square is None else phase.square
        spread = tiles.each(square, weight.detach().abs()) if matrix.read_noise > 0 else []
    shape = outputs[0].shape
    if len(shape) > 2:
        outputs, spread = [_by_position(y) for y in outputs], [_by_position(v) for v in spread]
        if input_range.numel() > 1:
            conversion = conversion._replace(input_range=input_range.repeat_interleave(shape[2:].numel()))
    y = convert_outputs(outputs, spread, matrix, conversion)
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
    if hardware.integrator is not None:
        return _charges(x, weight, scale, input_range, tiles, hardware, hardware.integrator)
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


def _charges(
    x: Tensor, weight: Tensor, scale: Tensor, input_range: Tensor, tiles: Tiles, hardware: Hardware,
    integrator: Integrator,
) -> Sequence[Tensor]:  # fmt: skip
    """What capacitors hold, in the units of a product of amplitudes."""
    window = divisor(input_range.detach().abs()).view(-1, *[1] * (x.dim() - 1)).to(x.dtype)
    full = spread_scale(divisor(scale.detach()).to(weight.dtype), weight.shape[1], hardware)
    ticks = None if hardware.dac is None else int(hardware.dac.half)
    charges = integrator.integrate(x / window, weight / full, tiles.each, ticks)
    units = [s.to(weight.dtype).view(-1, *[1] * (x.dim() - 2)) for s in divisor(scale.detach())]
    return [charge * unit * window for charge, unit in zip(charges, units, strict=True)]


def convert_outputs(
    outputs: Sequence[Tensor], spread: Sequence[Tensor], matrix: Matrix, conversion: Conversion
) -> Tensor:
    """Noise, ADC, gain and digital sum of the tiles' outputs ``[rows, channels]``."""
    if conversion.apart is not None:
        return _convert_apart(outputs, spread, matrix, conversion, conversion.apart)
    return call(
        "adc", outputs, spread, matrix.scale, matrix.gain, conversion.input_range, conversion.output_range,
        conversion.seed, conversion.offset, *conversion.settings(matrix),
    )[0]  # fmt: skip


def _convert_apart(
    outputs: Sequence[Tensor], spread: Sequence[Tensor], matrix: Matrix, conversion: Conversion, adc: OutputConverter
) -> Tensor:
    """The same by a converter that the kernels do not know, tile by tile."""
    errors = conversion.errors
    if errors is None:
        errors = matrix.scale.new_zeros(len(adc.errors), len(outputs), 1, dtype=torch.float32)
    total = torch.zeros_like(outputs[0])
    for t, y in enumerate(outputs):
        scale, v = matrix.scale[t : t + 1], list(spread[t : t + 1])
        arguments = (scale, None, conversion.input_range, conversion.output_range.detach(), conversion.seed)
        settings = conversion.settings(matrix)
        noisy = y
        if v or settings[0] > 0:
            noisy = call("adc", [y], v, *arguments, conversion.offset + t, *settings)[0]
        full = (conversion.output_range.to(y.dtype) * scale * conversion.input_range.view(-1, 1)).abs()
        decisions = _Decisions(conversion.seed, streams.DECISIONS + (conversion.offset + t) * 32, tuple(y.shape))
        converted = adc.convert(noisy, full, errors[:, t].unbind(), decisions)
        total = total + (converted if matrix.gain is None else converted * matrix.gain[t].to(y.dtype))
    return total


class _Decisions(NamedTuple):
    """Noise of the decisions of one tile's converters."""

    seed: Tensor
    offset: int
    shape: tuple[int, ...]

    def __call__(self, decision: int) -> Tensor:
        return call("normal", self.seed, self.offset + decision, self.shape)


def _whole_input(phases: Sequence[Phase]) -> Tensor:
    """What all steps of the inputs add up to."""
    first, *others = phases
    whole = first.x if first.factor == 1.0 else first.x * first.factor
    for phase in others:
        whole = torch.add(whole, phase.x, alpha=phase.factor)
    return whole


def _whole_weight(matrix: Matrix, seed: Tensor, rows: int) -> Tensor:
    """What all slices, as one read finds them, add up to, with the gain."""
    slices = matrix.slices()
    whole = slices[0][1].read(seed, rows)
    if matrix.factors is not None:
        whole = whole * slices[0][0]
        for factor, part in slices[1:]:
            whole = torch.add(whole, part.read(seed, rows), alpha=factor)
    return _corrected(whole, matrix.gain, rows)


def _by_position(y: Tensor) -> Tensor:
    """``[rows, channels, ...]`` as ``[rows * positions, channels]``: noise is drawn in this order in any layout."""
    return y.movedim(1, -1).reshape(-1, y.shape[1])


def _corrected(weight: Tensor, gain: Tensor | None, rows: int) -> Tensor:
    """The weight times its tiles' gains, which then need no outputs of their own."""
    if gain is None:
        return weight
    return weight * gain.t().to(weight.dtype).repeat_interleave(rows, dim=1)[:, : weight.shape[1]]
