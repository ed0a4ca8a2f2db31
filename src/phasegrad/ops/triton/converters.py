"""Digital-to-analog and analog-to-digital conversion with Triton, in float32 for tensors of 16 or 32 bits.

What is one number for the reference, a range or a bound, is read from device memory by every program.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from phasegrad.ops import reference
from phasegrad.ops.triton import philox
from phasegrad.ops.triton.launch import all_taken, launch

VALUES = 1024
"""Values that a program of an elementwise kernel converts; a power of two."""

ROWS, GROUPS = 8, 2
"""Rows, and 64ths of columns, of a matrix that a program of ``adc`` converts; powers of two."""

_LARGEST = tl.constexpr(3.4028234663852886e38)
_HALF_EVEN = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it rounds to an integer, ties to even
_NO_CONVERTER = tl.constexpr(reference.NO_CONVERTER)
_MID_TREAD = tl.constexpr(reference.MID_TREAD)
_MID_RISE = tl.constexpr(reference.MID_RISE)
_END_POINT = tl.constexpr(reference.END_POINT)


@triton.jit
def finite(x):
    return tl.abs(x) <= _LARGEST


@triton.jit
def clamp(x, low, high):
    """``x`` within bounds that are numbers; NaN passes."""
    return tl.where(x > high, high, tl.where(x < low, low, x))


@triton.jit
def _rounded(x):
    return (x + _HALF_EVEN) - _HALF_EVEN


@triton.jit
def _dac(
    out, x, limit, rows, inner, max_code, LEVELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    chunks = tl.cdiv(inner, COLUMNS)
    pid = tl.program_id(0)
    row = (pid // chunks).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = (pid % chunks).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    r = tl.load(limit + row, mask=row < rows, other=1.0).to(tl.float32)
    up = tl.where(r == 0.0, 0.0, clamp(tl.div_rn(max_code, r), -_LARGEST, _LARGEST))
    mask = (row < rows) & (column < inner)
    value = tl.load(x + row * inner + column, mask=mask, other=0.0).to(tl.float32)
    level = _rounded(clamp(value * up, -max_code, max_code))
    step = 1.0 if LEVELS else tl.div_rn(r, max_code)
    tl.store(out + row * inner + column, tl.where(finite(value), level * step, value), mask=mask)


def dac(x: Tensor, range: Tensor, max_code: float, decay: float, keep: float) -> Tensor:
    if not all_taken(x, range):
        return reference.dac(x, range, max_code, decay, keep)
    return converted_inputs(x, range, max_code, levels=False)


def converted_inputs(x: Tensor, range: Tensor, max_code: float, *, levels: bool) -> Tensor:
    """Inputs after the DAC, or their levels: integers, of which a 16-bit float represents those of 8 bits exactly."""
    # Each row, which may have its own range, stays contiguous.
    order = reference.memory_order(x) if x.dim() > 3 else torch.contiguous_format
    x, range = x.contiguous(memory_format=order), range.contiguous()
    out = torch.empty_like(x, memory_format=order)
    rows = range.numel()
    inner = x.numel() // rows if rows else 0
    columns = min(VALUES, triton.next_power_of_2(max(inner, 1)))
    at_once = min(VALUES // columns, triton.next_power_of_2(max(rows, 1)))
    grid = (triton.cdiv(rows, at_once) * triton.cdiv(inner, columns),)
    launch(
        _dac, grid, out, x, range, rows, inner, max_code, like=x, LEVELS=levels, ROWS=at_once, COLUMNS=columns
    )  # fmt: skip
    return out


@triton.jit
def _dac_backward(grad_x, taken, inside, grad, x, limit, count, VALUES: tl.constexpr):
    pid = tl.program_id(0)
    n = pid.to(tl.int64) * VALUES + tl.arange(0, VALUES)
    mask = n < count
    g = tl.load(grad + n, mask=mask, other=0.0).to(tl.float32)
    value = tl.load(x + n, mask=mask, other=0.0).to(tl.float32)
    r = tl.load(limit).to(tl.float32)
    passes = tl.abs(value) <= tl.abs(r)
    sign = tl.where(value > 0.0, 1.0, tl.where(value < 0.0, -1.0, value))
    beyond = tl.where(passes, 0.0, sign)
    beyond = tl.where(r < 0.0, -beyond, beyond)
    tl.store(grad_x + n, tl.where(passes, g, 0.0), mask=mask)
    tl.store(taken + pid, tl.sum((g * beyond).to(tl.float64), 0))
    tl.store(inside + pid, tl.sum((passes & mask).to(tl.int32), 0))


@triton.jit
def _range_gradient(out, taken, inside, limit, programs, enough, decay, VALUES: tl.constexpr):
    total = tl.zeros((VALUES,), tl.float64)
    count = tl.zeros((VALUES,), tl.int64)
    for first in range(0, programs, VALUES):
        n = first + tl.arange(0, VALUES)
        total += tl.load(taken + n, mask=n < programs, other=0.0)
        count += tl.load(inside + n, mask=n < programs, other=0).to(tl.int64)
    pull = tl.where(tl.sum(count, 0) >= enough, decay * tl.load(limit).to(tl.float32), 0.0)
    tl.store(out, tl.sum(total, 0).to(tl.float32) + pull)


def dac_backward(grad: Tensor, x: Tensor, range: Tensor, decay: float, keep: float) -> tuple[Tensor, Tensor]:
    if not all_taken(grad, x, range) or range.numel() != 1:
        return reference.dac_backward(grad, x, range, decay, keep)
    order = reference.memory_order(x)
    grad, x = (t.contiguous(memory_format=order) for t in (grad, x))
    grad_x, grad_range = torch.empty_like(x, memory_format=order), torch.empty_like(range)
    programs, enough = triton.cdiv(x.numel(), VALUES), math.ceil(keep * max(x.numel(), 1))
    taken = torch.empty(programs, dtype=torch.float64, device=x.device)
    inside = torch.empty(programs, dtype=torch.int32, device=x.device)
    launch(_dac_backward, (programs,), grad_x, taken, inside, grad, x, range, x.numel(), like=x, VALUES=VALUES)
    launch(
        _range_gradient, (1,), grad_range, taken, inside, range, programs, enough, decay, like=x, VALUES=VALUES
    )  # fmt: skip
    return grad_x, grad_range


@triton.jit
def _quantised(v, max_code, MODE: tl.constexpr):
    """``phasegrad.ops.reference.quantise``."""
    if MODE == _MID_TREAD:
        return _rounded(v)
    elif MODE == _MID_RISE:
        return clamp(tl.floor(v), -max_code, max_code - 1.0) + 0.5
    elif MODE == _END_POINT:
        return clamp(tl.floor(v) + 0.5, -max_code, max_code)
    else:
        return clamp(tl.where(v < 0.0, tl.ceil(v), tl.floor(v)), 1.0 - max_code, max_code - 1.0)


@triton.jit
def _converted(value, full, max_code, MODE: tl.constexpr):
    """Outputs after the ADC, and whether they are beyond its range: 1 above, -1 below."""
    up, down = tl.div_rn(max_code, full), tl.div_rn(full, max_code)
    level = _quantised(clamp(value * up, -max_code, max_code), max_code, MODE)
    passes = (full <= 0.0) | (finite(value) == 0)
    clipped = (value > full).to(tl.int8) - (value < -full).to(tl.int8)
    return tl.where(passes, value, level * down + 0.0 * full), tl.where(passes, 0, clipped).to(tl.int8)


@triton.jit(do_not_specialize=["offset"])
def _adc(
    out, code, y, v, scale, gain, input_range, bound, seed, offset, tiles, tile_size, rows, columns, channels,
    output_noise, read_noise, in_codes, max_code,
    MODE: tl.constexpr, NOISY: tl.constexpr, VARIANCE: tl.constexpr, GAIN: tl.constexpr, LEVELS: tl.constexpr,
    PER_SAMPLE: tl.constexpr, PER_ROW: tl.constexpr, ADD: tl.constexpr, ALIGNED: tl.constexpr, ROWS: tl.constexpr,
    GROUPS: tl.constexpr,
):  # fmt: skip
    # A row starts within a group of 64 values of the stream, `shift` values after the group does.
    chunks = tl.cdiv(columns + (0 if ALIGNED else 63), 64 * GROUPS)
    pid = tl.program_id(0)
    row = (pid // chunks).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    group = row * columns // 64
    first = (pid % chunks) * (64 * GROUPS)
    column = first + tl.arange(0, 64 * GROUPS)[None, :]
    if not ALIGNED:
        column = column - (row * columns - 64 * group)
    mask = (row < rows) & (column >= 0) & (column < columns)
    place = row * columns + column
    # A row is a sample, and its columns are channels; or it is a channel of a sample, and its columns are positions.
    if PER_ROW:
        sample, channel, exists = row // channels, row % channels, row < rows
    else:
        sample, channel, exists = row, column, (column >= 0) & (column < columns)
    r = tl.load(input_range + (sample if PER_SAMPLE else 0 * sample), mask=row < rows, other=0.0).to(tl.float32)
    step = tl.div_rn(r, in_codes) if LEVELS else 1.0
    b, key = tl.load(bound).to(tl.float32), tl.load(seed)
    total = tl.zeros((ROWS, 64 * GROUPS), tl.float32)
    if ADD:
        total = tl.load(out + place, mask=mask, other=0.0).to(tl.float32)
    for tile in range(0, tiles):
        value = tl.load(y + place, mask=mask, other=0.0).to(tl.float32) * step
        s = tl.load(scale + channel, mask=exists, other=0.0).to(tl.float32)
        unit = s * r
        if NOISY:
            variance = (output_noise * unit) * (output_noise * unit)
            if VARIANCE:
                square = tl.load(v + place, mask=mask, other=0.0).to(tl.float32) * (step * step)
                variance = variance + (read_noise * read_noise) * s * square
            z = philox.normal_rows(key, offset + tile, group + first // 64, ROWS, GROUPS)
            value += tl.sqrt(variance) * z
        if MODE != _NO_CONVERTER:
            value, clipped = _converted(value, tl.abs(b * unit), max_code, MODE)
            tl.store(code + place, clipped, mask=mask)
        if GAIN:
            value *= tl.load(gain + channel, mask=exists, other=0.0).to(tl.float32)
        total += value
        y += tile_size
        v += tile_size
        code += tile_size
        scale += channels
        gain += channels
    tl.store(out + place, total, mask=mask)


class Outputs(NamedTuple):
    """What the conversion of outputs depends on, as ``phasegrad.ops.schema`` names it."""

    scale: Tensor
    gain: Tensor | None
    input_range: Tensor
    bound: Tensor
    seed: Tensor
    offset: int
    output_noise: float
    read_noise: float
    mode: int
    max_code: float


def convert(
    out: Tensor, code: Tensor, y: Tensor, v: Tensor | None, first: int, settings: Outputs, in_codes: float = 0.0
) -> None:
    """Convert tiles ``first``, ``first + 1``, ... and add their outputs to ``out``; tile 0 overwrites it.

    Args:
        out: the sum over tiles ``[samples, channels, ...]``.
        code: which outputs each tile's converter clipped ``[tiles, samples, channels, ...]``, or empty.
        y: products of some tiles, as ``code``, contiguous.
        v: variances of the read, in units of ``read_noise^2 scale``, as ``y``.
        first: number of the first tile in ``y``.
        settings: the conversion; scale, gain and range are contiguous.
        in_codes: largest level of the inputs if ``y`` is a product of levels, otherwise 0.
    """
    s, inner = settings, math.prod(out.shape[2:])
    channels, per_row = out.shape[1], inner != 1
    rows, columns = (len(out) * channels, inner) if per_row else (len(out), channels)
    aligned = columns % 64 == 0
    groups = min(GROUPS, triton.next_power_of_2(triton.cdiv(max(columns, 1) + (0 if aligned else 63), 64)))
    grid = (triton.cdiv(rows, ROWS) * triton.cdiv(columns + (0 if aligned else 63), 64 * groups),)
    launch(
        _adc, grid, out, code[first] if s.mode else out, y, y if v is None else v, s.scale[first],
        s.scale if s.gain is None else s.gain[first], s.input_range, s.bound, s.seed, s.offset + first, len(y),
        out.numel(), rows, columns, channels, s.output_noise, s.read_noise, in_codes, s.max_code, like=out, MODE=s.mode,
        NOISY=v is not None or s.output_noise > 0, VARIANCE=v is not None, GAIN=s.gain is not None,
        LEVELS=in_codes > 0, PER_SAMPLE=s.input_range.numel() > 1, PER_ROW=per_row, ADD=first > 0, ALIGNED=aligned,
        ROWS=ROWS, GROUPS=groups,
    )  # fmt: skip


def adc(
    y: Sequence[Tensor],
    v: Sequence[Tensor],
    scale: Tensor,
    gain: Tensor | None,
    input_range: Tensor,
    bound: Tensor,
    seed: Tensor,
    offset: int,
    output_noise: float,
    read_noise: float,
    mode: int,
    max_code: float,
) -> tuple[Tensor, Tensor]:
    conversion = (seed, offset, output_noise, read_noise, mode, max_code)
    if not all_taken(*y, *v, scale, gain, input_range, bound):
        return reference.adc(y, v, scale, gain, input_range, bound, *conversion)
    gain = None if gain is None else gain.contiguous()
    settings = Outputs(scale.contiguous(), gain, input_range.contiguous(), bound, *conversion)
    # Sums of several launches are float32 until the last.
    out = torch.empty(y[0].shape, dtype=torch.float32, device=y[0].device)
    code = torch.empty((len(y), *out.shape) if mode else (0,), dtype=torch.int8, device=out.device)
    for tile, product in enumerate(y):
        square = v[tile].contiguous()[None] if v else None
        convert(out, code, product.contiguous()[None], square, tile, settings)
    return out.to(y[0].dtype), code


@triton.jit
def _unclipped(
    out, grad, code, gain, tiles, size, columns, CODE: tl.constexpr, GAIN: tl.constexpr, VALUES: tl.constexpr
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64) * VALUES + tl.arange(0, VALUES)
    mask = n < size
    g = tl.load(grad + n, mask=mask, other=0.0).to(tl.float32)
    column = (n % columns) if GAIN else n
    for _ in range(0, tiles):
        value = g
        if CODE:
            value = tl.where(tl.load(code + n, mask=mask, other=0) == 0, value, 0.0)
        if GAIN:
            value *= tl.load(gain + column, mask=mask, other=0.0).to(tl.float32)
        tl.store(out + n, value, mask=mask)
        out += size
        code += size
        gain += columns


def unclipped(out: Tensor, grad: Tensor, code: Tensor | None, gain: Tensor | None) -> None:
    """The gradient of each tile's outputs ``[tiles, rows, ...]``: none where its converter clipped, times the gain."""
    launch(
        _unclipped, (triton.cdiv(grad.numel(), VALUES),), out, grad, grad if code is None else code,
        grad if gain is None else gain, len(out), grad.numel(), grad.shape[-1] if grad.dim() else 1, like=grad,
        CODE=code is not None, GAIN=gain is not None, VALUES=VALUES,
    )  # fmt: skip


def adc_backward(grad: Tensor, code: Tensor) -> Tensor:
    if not all_taken(grad):
        return reference.adc_backward(grad, code)
    out = torch.empty(code.shape, dtype=grad.dtype, device=grad.device)
    if len(code):
        unclipped(out, grad.contiguous(), code.contiguous(), None)
    return out
