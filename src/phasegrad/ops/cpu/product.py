"""The product of a tile on the CPU, with its converters and the read of its weights."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from phasegrad.ops import reference, workspace
from phasegrad.ops.cpu.calls import all_floats, call
from phasegrad.ops.cpu.converters import convert, dac, perturbed, straight_through
from phasegrad.ops.row_tiles import by_tile, tile_groups

_CACHED = 1 << 18  # outputs that fit the second-level cache


def _multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    if len(out) == 1:
        torch.mm(a[0], b[0], out=out[0])
    else:
        torch.bmm(a, b, out=out)


def _multiply_into(out: Tensor, a: Tensor, b: Tensor) -> None:
    """For small products that are adjacent in one matrix: a separate batch computes them in one call."""
    if len(out) == 1:
        torch.mm(a[0], b[0], out=out[0])
    else:
        out.copy_(torch.bmm(a, b))


def tile_linear(
    x: Tensor,
    w: Tensor,
    scale: Tensor,
    clip: Tensor | None,
    level: Tensor | None,
    gain: Tensor | None,
    input_range: Tensor,
    dac_max_code: float,
    decay: float,
    keep: float,
    bound: Tensor,
    seed: Tensor,
    weight_offset: int,
    offset: int,
    rows: int,
    noise: Sequence[float],
    drop_connect: float,
    output_noise: float,
    read_noise: float,
    mode: int,
    adc_max_code: float,
) -> tuple[Tensor, Tensor, Tensor]:
    settings = (output_noise, read_noise, mode, adc_max_code)
    if not all_floats(x, w, scale, input_range, bound, *(t for t in (clip, gain) if t is not None)):
        conversion = (input_range, dac_max_code, decay, keep, bound, seed)
        weights = (weight_offset, offset, rows, noise, drop_connect)
        return reference.tile_linear(x, w, scale, clip, level, gain, *conversion, *weights, *settings)
    if dac_max_code > 0:
        x = dac(x, input_range, dac_max_code, decay, keep)
    read = w
    if clip is not None and level is not None:
        strength = float(level)
        room = workspace.for_read(w) if strength else w.new_empty(w.shape)  # evaluation does not keep the memory
        read = perturbed(room, w, scale, clip, strength, int(seed), weight_offset, rows, noise, drop_connect)
    columns = (scale.contiguous(), None if gain is None else gain.contiguous(), input_range.contiguous())
    conversion = (output_noise, read_noise, float(bound), mode, adc_max_code, int(seed))
    tiles, out = len(scale), x.new_empty(x.shape[0], w.shape[0])
    code = x.new_empty((tiles, *out.shape) if mode else (0,), dtype=torch.int8)
    groups = tile_groups(tiles, w.shape[1] // rows, out.numel(), _CACHED)
    y = workspace.scratch("outputs", torch.float32, groups[0].stop, *out.shape)
    v = workspace.scratch("variances", torch.float32, *y.shape) if read_noise > 0 else y[:0]
    variance = _Variance(x, read, rows) if read_noise > 0 else None
    integers = None
    if len(x) >= _MANY and _large(x, w, rows):
        integers = _Integers.of_levels(x, read, rows, columns[2])
    for group in groups:
        count = group.stop - group.start
        inputs, weights = by_tile(x, group, rows), by_tile(read, group, rows).transpose(1, 2)
        if integers is None:
            _multiply(inputs, weights, y[:count])
        else:
            integers.multiply(group, y[:count])
        if variance is not None:
            variance.of(group, v[:count])
        units = variance.units if variance is not None else ()
        convert(out, code, y[:count].unbind(), v[:count].unbind(), columns, group.start, conversion, offset, units)
    return out, code, x.new_empty(0) if clip is None else read


class _Variance:
    """The variance that read noise adds to a product: ``sum_j |w_j| x_j^2`` of each tile.

    Exact for small matrices. For large ones, magnitudes are stochastically rounded to 7 bits; the standard deviation is
    then within 0.2 % for 1,000 rows, at an eighth of the cost.
    """

    def __init__(self, x: Tensor, w: Tensor, rows: int) -> None:
        self.x, self.w, self.rows = x, w, rows
        tiles = -(-x.shape[1] // rows)
        self.units: tuple[Tensor, ...] = ()
        self.coarse = _large(x, w, rows)
        if self.coarse:
            self.units = tuple(m.new_empty(tiles, len(m)) for m in (x, w))
            named = {"sizes of inputs": x, "sizes of weights": w}
            self.sizes = [workspace.scratch(name, torch.int8, *m.shape) for name, m in named.items()]
            for i, m in enumerate((x.contiguous(), w.contiguous())):
                place = (self.sizes[i].data_ptr(), self.units[i].data_ptr(), m.data_ptr())
                call("round_sizes", *place, *m.shape, rows, int(i == 0))

    def of(self, tiles: slice, out: Tensor) -> None:
        """The variances of some tiles, ``[tiles, rows, out]``, or the integers that count ``units``."""
        if not self.coarse:
            inputs, weights = (by_tile(m, tiles, self.rows) for m in (self.x, self.w))
            _multiply(inputs.square(), weights.abs().transpose(1, 2), out)
            return
        for tile, part in zip(range(tiles.start, tiles.stop), out, strict=True):
            x, w = (m[:, tile * self.rows : (tile + 1) * self.rows] for m in self.sizes)
            torch._int_mm(x, w.t(), out=part.view(torch.int32))


class _Integers:
    """The product of each tile if inputs lie on the levels of an 8-bit converter: a sum of three products of bytes.

    Weights have 24 bits relative to the largest of their column in a tile. Sums of integers are exact in any order.
    """

    def __init__(self, levels: Tensor, digits: Tensor, units: Tensor, input_range: Tensor, rows: int) -> None:
        self.levels, self.digits, self.units, self.input_range, self.rows = levels, digits, units, input_range, rows

    @classmethod
    def of_levels(cls, x: Tensor, w: Tensor, rows: int, input_range: Tensor) -> _Integers | None:
        """Return ``None`` if an input is not on a level, or a value is not finite."""
        x, w, refused, per_row = x.contiguous(), w.contiguous(), ctypes.c_int32(), int(input_range.numel() > 1)
        levels = workspace.scratch("levels", torch.int8, *x.shape)
        digits = workspace.scratch("digits", torch.int8, 3, *w.shape)
        units = w.new_empty(-(-w.shape[1] // rows), len(w))
        place = (levels.data_ptr(), ctypes.byref(refused), x.data_ptr(), input_range.data_ptr())
        call("levels", *place, *x.shape, per_row)
        if not refused.value:
            place = (digits.data_ptr(), units.data_ptr(), ctypes.byref(refused), w.data_ptr())
            call("digits", *place, *w.shape, rows)
        return None if refused.value else cls(levels, digits, units, input_range, rows)

    def multiply(self, tiles: slice, out: Tensor) -> None:
        """The products of some tiles, ``[tiles, rows, out]``."""
        ranges = self.input_range.expand(len(self.levels)).contiguous()
        for tile, whole in zip(range(tiles.start, tiles.stop), out, strict=True):
            lines = slice(tile * self.rows, (tile + 1) * self.rows)
            parts = zip(self.levels.split(_AT_ONCE), whole.split(_AT_ONCE), ranges.split(_AT_ONCE), strict=True)
            for levels, part, limits in parts:
                products = workspace.scratch("products", torch.int32, 3, *part.shape)
                for digit, product in zip(self.digits, products, strict=True):
                    torch._int_mm(levels[:, lines], digit[:, lines].t(), out=product)
                place = (part.data_ptr(), products.data_ptr(), self.units[tile].data_ptr(), limits.data_ptr())
                call("join_digits", *place, *part.shape, 1)


def _large(x: Tensor, w: Tensor, rows: int) -> bool:
    """Whether integers are faster: the product is large, and the processor multiplies bytes."""
    return _BYTES and len(x) * w.numel() >= _LARGE and rows <= _SUMMED


_BYTES = torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()
_LARGE = 1 << 24  # multiplications
_AT_ONCE = 256  # inputs whose three products of bytes are in memory at a time
_MANY = 256  # inputs from which on splitting weights into bytes pays off
_SUMMED = 1 << 17  # products of bytes that fit a 32-bit sum


def tile_linear_backward(
    grad: Tensor,
    code: Tensor,
    x: Tensor,
    read: Tensor,
    w: Tensor | None,
    clip: Tensor | None,
    gain: Tensor | None,
    rows: int,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    if not all_floats(grad, x, read, *(t for t in (w, clip, gain) if t is not None)):
        return reference.tile_linear_backward(grad, code, x, read, w, clip, gain, rows, wanted)
    grad, code = grad.contiguous(), code.contiguous()
    grad_x = x.new_empty(x.shape if wanted[0] else (0,))
    grad_w = read.new_empty(read.shape if wanted[1] else (0,))
    tiles, whole = -(-read.shape[1] // rows), read.shape[1] // rows
    alike = not len(code) and gain is None  # every tile's outputs have the same gradient
    groups = [slice(0, 1)] if alike else tile_groups(tiles, whole, grad.numel(), _CACHED)
    rows = read.shape[1] if alike else rows
    g = grad.unsqueeze(0) if alike else grad.new_empty(groups[0].stop, *grad.shape)
    for group in groups:
        part = g[: group.stop - group.start]
        if not alike:
            _unclipped(part, grad, code[group], None if gain is None else gain[group])
        if wanted[0]:
            _multiply_into(by_tile(grad_x, group, rows), part, by_tile(read, group, rows))
        if wanted[1]:
            _multiply(part.transpose(1, 2), by_tile(x, group, rows), by_tile(grad_w, group, rows))
    if wanted[1] and w is not None and clip is not None:
        straight_through(grad_w, w.contiguous(), clip.contiguous())
    return grad_x, grad_w


def _unclipped(out: Tensor, grad: Tensor, code: Tensor, gain: Tensor | None) -> None:
    """The gradient of each tile's outputs."""
    for i, part in enumerate(out):
        if len(code):
            call("adc_backward", part.data_ptr(), grad.data_ptr(), code[i].data_ptr(), grad.numel())
        if gain is not None:
            torch.mul(part if len(code) else grad, gain[i], out=part)
