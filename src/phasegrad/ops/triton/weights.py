"""Scales, clipping and training noise of weights with Triton, in float32 for tensors of 16 or 32 bits."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from phasegrad.ops import reference
from phasegrad.ops.triton import philox
from phasegrad.ops.triton.converters import clamp, finite
from phasegrad.ops.triton.launch import all_taken, launch

ROWS, GROUPS = 4, 4
"""Rows, and 64ths of columns, of a weight that a program reads; powers of two."""

SCALE_ROWS, COLUMNS = 4, 512
"""Rows of a weight that a program of ``weight_scale`` compares, and columns that it loads at a time."""

_INFINITY = tl.constexpr(float("inf"))


@triton.jit
def _size(value):
    """The bits of a magnitude: as integers they have the order of magnitudes, and NaN is the largest."""
    return value.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def _row_sizes(
    largest, squares, nonzero, w, out_features, in_features, rows, tiles, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    exists = row < out_features
    total = tl.zeros((ROWS, COLUMNS), tl.float64)
    count = tl.zeros((ROWS, COLUMNS), tl.int32)
    for tile in range(0, tiles):
        start = tile * rows
        end = tl.minimum(start + rows, in_features)
        size = tl.zeros((ROWS, COLUMNS), tl.int32)
        for first in range(start, end, COLUMNS):
            column = first + tl.arange(0, COLUMNS)[None, :]
            place = w + row[:, None] * in_features + column
            value = tl.load(place, mask=exists[:, None] & (column < end), other=0.0).to(tl.float32)
            size = tl.maximum(size, _size(value))
            total += value.to(tl.float64) * value.to(tl.float64)
            count += (value != 0.0).to(tl.int32)
        found = tl.cast(tl.max(size, 1), tl.float32, bitcast=True)
        tl.store(largest + tile * out_features + row, found, mask=exists)
    tl.store(squares + row, tl.sum(total, 1), mask=exists)
    tl.store(nonzero + row, tl.sum(count, 1), mask=exists)


@triton.jit
def _scales(
    scale, clip, largest, squares, nonzero, out_features, columns, sigma,
    PER_COLUMN: tl.constexpr, CLIPS: tl.constexpr, PER_CHANNEL: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    tile, block = tl.program_id(1), tl.program_id(0)
    start = block * columns
    end = tl.minimum(start + columns, out_features)
    limit = tl.full((), _INFINITY, tl.float32)
    if CLIPS and not PER_CHANNEL:
        total = tl.zeros((COLUMNS,), tl.float64)
        count = tl.zeros((COLUMNS,), tl.int64)
        for first in range(0, out_features, COLUMNS):
            channel = first + tl.arange(0, COLUMNS)
            total += tl.load(squares + channel, mask=channel < out_features, other=0.0)
            count += tl.load(nonzero + channel, mask=channel < out_features, other=0).to(tl.int64)
        limit = sigma * tl.sqrt_rn((tl.sum(total, 0) / tl.maximum(tl.sum(count, 0), 1)).to(tl.float32))
    size = tl.zeros((COLUMNS,), tl.int32)
    for first in range(start, end, COLUMNS):
        channel = first + tl.arange(0, COLUMNS)
        mask = channel < end
        bound = tl.full((COLUMNS,), 0.0, tl.float32) + limit
        if CLIPS and PER_CHANNEL:
            square = tl.load(squares + channel, mask=mask, other=0.0)
            count = tl.maximum(tl.load(nonzero + channel, mask=mask, other=0), 1)
            bound = sigma * tl.sqrt_rn((square / count).to(tl.float32))
        found = tl.load(largest + tile * out_features + channel, mask=mask, other=0.0)
        found = tl.where((found > bound) | (bound != bound), bound, found)
        if PER_COLUMN:
            tl.store(scale + tile * out_features + channel, found, mask=mask)
        else:
            size = tl.maximum(size, tl.where(mask, _size(found), 0))
        if tile == 0:
            tl.store(clip + channel, bound, mask=mask)
    if not PER_COLUMN:
        found = tl.cast(tl.max(size, 0), tl.float32, bitcast=True)
        for first in range(start, end, COLUMNS):
            channel = first + tl.arange(0, COLUMNS)
            tl.store(
                scale + tile * out_features + channel, found + tl.zeros((COLUMNS,), tl.float32), mask=channel < end
            )


def weight_scale(
    w: Tensor, rows: int, columns: int, per_column: bool, clip_sigma: float, clip_per_channel: bool
) -> tuple[Tensor, Tensor]:
    if not all_taken(w) or w.shape[1] == 0:
        return reference.weight_scale(w, rows, columns, per_column, clip_sigma, clip_per_channel)
    w = w.contiguous()
    out_features, in_features = w.shape
    tiles = triton.cdiv(in_features, rows)
    largest = torch.empty((tiles, out_features), dtype=torch.float32, device=w.device)
    squares = torch.empty(out_features, dtype=torch.float64, device=w.device)
    nonzero = torch.empty(out_features, dtype=torch.int32, device=w.device)
    scale, clip = torch.empty_like(largest, dtype=w.dtype), torch.empty(out_features, dtype=w.dtype, device=w.device)
    columns_at_once = min(COLUMNS, triton.next_power_of_2(min(rows, in_features)))
    launch(
        _row_sizes, (triton.cdiv(out_features, SCALE_ROWS),), largest, squares, nonzero, w, out_features, in_features,
        rows, tiles, like=w, ROWS=SCALE_ROWS, COLUMNS=columns_at_once,
    )  # fmt: skip
    block = COLUMNS if per_column else columns
    launch(
        _scales, (triton.cdiv(out_features, block), tiles), scale, clip, largest, squares, nonzero, out_features, block,
        clip_sigma, like=w, PER_COLUMN=per_column, CLIPS=clip_sigma > 0, PER_CHANNEL=clip_per_channel, COLUMNS=COLUMNS,
    )  # fmt: skip
    return scale, clip


@triton.jit(do_not_specialize=["offset"])
def _noisy_weights(
    out, w, scale, clip, level, seed, offset, dropped_offset, out_features, in_features, rows, c0, c1, c2, parabolas,
    pieces, by_sign, drop_connect,
    NOISY: tl.constexpr, PIECES: tl.constexpr, DROPS: tl.constexpr, ALIGNED: tl.constexpr, ROWS: tl.constexpr,
    GROUPS: tl.constexpr,
):  # fmt: skip
    # A program reads some rows of one tile. A row of a tile starts within a group of 64 values of the stream.
    width = tl.minimum(rows, in_features)
    chunks = tl.cdiv(width + (0 if ALIGNED else 63), 64 * GROUPS)
    tiles = tl.cdiv(in_features, rows)
    pid = tl.program_id(0)
    tile = (pid // chunks) % tiles
    row = (pid // (chunks * tiles)).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    start = row * in_features + tile * rows
    first = (pid % chunks) * (64 * GROUPS)
    column = first + tl.arange(0, 64 * GROUPS)[None, :]
    if not ALIGNED:
        column = column - start % 64
    group = start // 64 + first // 64
    exists = row < out_features
    mask = exists & (column >= 0) & (column < tl.minimum(rows, in_features - tile * rows))
    value = tl.load(w + start + column, mask=mask, other=0.0).to(tl.float32)
    bound = tl.load(clip + row, mask=exists, other=0.0).to(tl.float32)
    clipped = tl.where(bound == bound, clamp(value, -bound, bound), bound)
    clipped = tl.where(finite(value), clipped, value)
    strength, key = tl.load(level).to(tl.float32), tl.load(seed)
    noisy = clipped
    if NOISY:
        if strength != 0.0:
            s = tl.load(scale + tile * out_features + row, mask=exists, other=0.0).to(tl.float32)
            over = tl.where(s > 0.0, tl.div_rn(1.0, s), 0.0)
            size = tl.abs(clipped)
            a, b, c = c0, c1, c2
            if PIECES:
                size = tl.where(by_sign != 0, clipped, size)
                a, b, c = tl.zeros_like(size), tl.zeros_like(size), tl.zeros_like(size)
                for piece in range(0, pieces):
                    # Each piece has its start and three coefficients; the first starts at minus infinity.
                    beyond = size >= tl.load(parabolas + 4 * piece) * s
                    a = tl.where(beyond, tl.load(parabolas + 4 * piece + 1), a)
                    b = tl.where(beyond, tl.load(parabolas + 4 * piece + 2), b)
                    c = tl.where(beyond, tl.load(parabolas + 4 * piece + 3), c)
            sd = strength * (a * s + size * (b + c * over * size))
            sd = tl.where(sd < 0.0, 0.0, sd)
            noisy = clipped + sd * philox.normal_rows(key, offset, group, ROWS, GROUPS)
    if DROPS:
        gate = philox.uniform_rows(key, dropped_offset, group, ROWS, GROUPS)
        noisy = tl.where(gate < drop_connect, 0.0, noisy)
    tl.store(out + start + column, noisy, mask=mask)


@functools.cache
def _pieces(noise: tuple[float, ...], device: torch.device) -> Tensor:
    """The parabolas of weights' noise, on a device: where each starts, and its coefficients ``[pieces, 4]``."""
    _, starts, parabolas = reference._parabolas(noise)
    rows = [(start, *parabola) for start, parabola in zip((-torch.inf, *starts), parabolas, strict=True)]
    return torch.tensor(rows, dtype=torch.float32, device=device)


def noisy_weights(
    w: Tensor,
    scale: Tensor,
    clip: Tensor,
    level: Tensor,
    seed: Tensor,
    offset: int,
    rows: int,
    noise: Sequence[float],
    drop_connect: float,
) -> Tensor:
    if not all_taken(w, scale, clip, level):
        return reference.noisy_weights(w, scale, clip, level, seed, offset, rows, noise, drop_connect)
    return as_read(w, scale, clip, level, seed, offset, rows, noise, drop_connect, w.dtype)


def as_read(
    w: Tensor, scale: Tensor, clip: Tensor, level: Tensor, seed: Tensor, offset: int, rows: int,
    noise: Sequence[float], drop_connect: float, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """``noisy_weights`` in a dtype, to which the sum of weight and noise is rounded once."""
    w, scale, clip = w.contiguous(), scale.contiguous(), clip.contiguous()
    out = torch.empty(w.shape, dtype=dtype, device=w.device)
    out_features, in_features = w.shape
    several = len(noise) != 3
    by_sign, _, parabolas = reference._parabolas(noise)
    pieces = _pieces(tuple(noise), w.device) if several else w
    coefficients = (0.0, 0.0, 0.0) if several else tuple(noise)
    aligned = in_features % 64 == 0 and (rows % 64 == 0 or rows >= in_features)
    width = triton.cdiv(max(min(rows, in_features), 1) + (0 if aligned else 63), 64)
    groups = min(GROUPS, triton.next_power_of_2(width))
    tiles = triton.cdiv(in_features, rows)
    launch(
        _noisy_weights, (triton.cdiv(out_features, ROWS) * tiles * triton.cdiv(width, groups),), out, w, scale, clip,
        level, seed, offset, offset + 1, out_features, in_features, rows, *coefficients, pieces, len(parabolas),
        int(by_sign), drop_connect, like=w, NOISY=any(c != 0 for parabola in parabolas for c in parabola),
        PIECES=several, DROPS=drop_connect > 0, ALIGNED=aligned, ROWS=ROWS, GROUPS=groups,
    )  # fmt: skip
    return out


@triton.jit
def _straight_through(grad, w, clip, out_features, in_features, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    chunks = tl.cdiv(in_features, COLUMNS)
    pid = tl.program_id(0)
    row = (pid // chunks).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = (pid % chunks) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    mask = (row < out_features) & (column < in_features)
    bound = tl.load(clip + row, mask=row < out_features, other=0.0).to(tl.float32)
    value = tl.load(w + row * in_features + column, mask=mask, other=0.0).to(tl.float32)
    # Few weights are clipped: only their gradients are read.
    above, below = mask & (value > bound), mask & (value < -bound)
    g = tl.load(grad + row * in_features + column, mask=above | below, other=0.0).to(tl.float32)
    outward = (above & (g < 0.0)) | (below & (g > 0.0))
    tl.store(grad + row * in_features + column, tl.zeros_like(value), mask=outward)


def noisy_weights_backward(grad: Tensor, w: Tensor, clip: Tensor) -> Tensor:
    if not all_taken(grad, w, clip):
        return reference.noisy_weights_backward(grad, w, clip)
    out = grad.clone(memory_format=torch.contiguous_format)
    straight_through(out, w, clip)
    return out


def straight_through(grad: Tensor, w: Tensor, clip: Tensor) -> None:
    """Zero a gradient, in place, where a descent step would push clipped weights further out."""
    w, clip = w.contiguous(), clip.contiguous()
    columns = min(COLUMNS, triton.next_power_of_2(max(w.shape[1], 1)))
    grid = (triton.cdiv(len(w), ROWS) * triton.cdiv(w.shape[1], columns),)
    launch(_straight_through, grid, grad, w, clip, *w.shape, like=w, ROWS=ROWS, COLUMNS=columns)
