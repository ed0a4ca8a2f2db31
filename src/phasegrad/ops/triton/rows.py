"""Reads that serve one row of inputs: mean and variance of the weights, and of their product."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from phasegrad.ops import reference
from phasegrad.ops.triton.cells import scale_of
from phasegrad.ops.triton.launch import all_floats, launch

CELLS = 1024
"""Cells that a program of ``rectified_cells`` reads."""

OUTPUTS = 4
"""Outputs whose products a program of ``row_products`` computes."""

SUMS: tl.constexpr = tl.constexpr(256)
"""Partial sums of a product, the same for any ``OUTPUTS``."""


@triton.jit
def _rectified(u):
    """Mean and variance of max(u + z, 0); the normal distribution is Abramowitz and Stegun 7.1.26, to 7.5e-8."""
    x = tl.abs(u) * 0.70710678
    t = 1.0 / (1.0 + 0.3275911 * x)
    e = tl.exp(-x * x)
    p = 1.061405429 * t - 1.453152027
    p = p * t + 1.421413741
    p = p * t - 0.284496736
    p = p * t + 0.254829592
    tail = 0.5 * (p * t * e)  # above |u|
    below = tl.where(u > 0.0, 1.0 - tail, tail)
    density = 0.39894228 * e
    clipped = u * below + density
    left = (u * u + 1.0) * below + u * density - clipped * clipped
    whole = u > 6.0  # nothing is clipped
    return tl.where(whole, u, clipped), tl.where(whole, 1.0, tl.maximum(left, 0.0, propagate_nan=tl.PropagateNan.ALL))


@triton.jit
def _rectified_cells(
    weight, variance, mean, sd, scale, out, features, rows, factors, PLANES: tl.constexpr, WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    count = tl.cast(out, tl.int64) * features
    inside = at < count
    total = tl.zeros((BLOCK,), tl.float32)
    spread = tl.zeros((BLOCK,), tl.float32)
    for plane in tl.static_range(PLANES):
        m = tl.load(mean + plane * count + at, mask=inside, other=0.0)
        s = tl.load(sd + plane * count + at, mask=inside, other=0.0)
        noisy = s > 0.0
        a, b = _rectified(tl.where(noisy, m / tl.where(noisy, s, 1.0), 0.0))
        clamped = tl.maximum(m, 0.0, propagate_nan=tl.PropagateNan.ALL)
        total += tl.where(noisy, a * s, clamped) * factors[1 + plane]
        step = factors[1 + plane] * s
        spread += tl.where(noisy, b * (step * step), 0.0)
    own = scale_of(scale, at, out, features, rows, inside, WIDE)
    tl.store(weight + at, (total + factors[0]) * own, mask=inside)
    tl.store(variance + at, spread * own, mask=inside)


def rectified_cells(
    mean: Tensor, sd: Tensor, factors: Sequence[float], scale: Tensor, rows: int
) -> tuple[Tensor, Tensor]:
    if not all_floats(mean, sd, scale):
        return reference.rectified_cells(mean, sd, factors, scale, rows)
    planes, out, features = mean.shape
    weight, variance = (torch.empty((out, features), dtype=torch.float32, device=mean.device) for _ in range(2))
    launch(
        _rectified_cells, (triton.cdiv(weight.numel(), CELLS),), weight, variance, mean.contiguous(), sd.contiguous(),
        scale.contiguous(), out, features, rows, tuple(map(float, factors)), like=mean, PLANES=planes,
        WIDE=weight.numel() >= 1 << 31, BLOCK=CELLS,
    )  # fmt: skip
    return weight, variance


@triton.jit
def _row_products(y, v, x, mean, variance, out, features, rows, OUTPUTS: tl.constexpr):
    """Products of some outputs with the inputs of one row tile; every weight is read once."""
    o = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    tile = tl.program_id(1)
    line = o.to(tl.int64)[:, None] * features
    sum_y = tl.zeros((OUTPUTS, SUMS), tl.float32)
    sum_v = tl.zeros((OUTPUTS, SUMS), tl.float32)
    end = tl.minimum(tile * rows + rows, features)
    for first in range(tile * rows, end, SUMS):
        i = first + tl.arange(0, SUMS)
        u = tl.load(x + i, mask=i < end, other=0.0)[None, :]
        inside = (o < out)[:, None] & (i < end)[None, :]
        sum_y += tl.load(mean + line + i[None, :], mask=inside, other=0.0) * u
        sum_v += tl.load(variance + line + i[None, :], mask=inside, other=0.0) * (u * u)
    tl.store(y + tile * out + o, tl.sum(sum_y, 1), mask=o < out)
    tl.store(v + tile * out + o, tl.sum(sum_v, 1), mask=o < out)


def row_products(x: Tensor, mean: Tensor, variance: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    if not all_floats(x, mean, variance):
        return reference.row_products(x, mean, variance, rows)
    (out, features), tiles = mean.shape, max(triton.cdiv(len(x), rows), 1)
    y, v = (torch.empty((tiles, out), dtype=torch.float32, device=x.device) for _ in range(2))
    launch(
        _row_products, (triton.cdiv(out, OUTPUTS), tiles), y, v, x.contiguous(), mean.contiguous(),
        variance.contiguous(), out, features, min(rows, features), like=x, OUTPUTS=OUTPUTS,
    )  # fmt: skip
    return y, v
