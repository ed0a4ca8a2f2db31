"""Scalar laws of PCM devices: the encoding of ``phasegrad.ops.reference.law`` as arguments of kernels."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from phasegrad.ops.triton.philox import log

# What a law consists of is compiled in, so that a device pays for the terms that it has; its numbers are not, so that a
# sweep over them compiles nothing.
TABLE: tl.constexpr = tl.constexpr(1)
TWO: tl.constexpr = tl.constexpr(2)
EXPONENTIAL: tl.constexpr = tl.constexpr(4)
LOGARITHM: tl.constexpr = tl.constexpr(8)  # both times 4 for the branch above the threshold

TINY: tl.constexpr = tl.constexpr(1.17549435e-38)


class Law(NamedTuple):
    """A law as three arguments of a kernel."""

    kind: int
    numbers: tuple[float | int, ...]
    """The threshold and the numbers of both branches, or the number of points."""
    points: Tensor | None
    """float64 positions and values of a table."""


def encode(law: Sequence[float], device: torch.device) -> Law:
    if law[0] == 1:
        return Law(1, (int(law[1]),), _table(tuple(law[2:]), device))
    kind, numbers = 0, [float(law[1])]
    for branch, factor in ((law[2:10], 1), (law[10:18], 4)):
        kind |= factor * (4 * (branch[2] != 0.0) + 8 * (branch[0] != 0.0))
        numbers += [branch[0], branch[1], *branch[3:]]
    return Law(kind | 2 * (law[1] < float("inf")), tuple(map(float, numbers)), None)


@functools.lru_cache(maxsize=64)
def _table(points: tuple[float, ...], device: torch.device) -> Tensor:
    """Points on the device, which waits for the copy once for each table."""
    return torch.tensor(points, dtype=torch.float64, device=device)


@triton.jit
def at_least(x, low):
    """The larger of two numbers, NaN if one is."""
    return tl.maximum(x, low, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def ln_of(g):
    """Ln g, where g = 0 counts as the smallest normal float."""
    return log(tl.maximum(g, TINY)) + (g - g)


@triton.jit
def _branch(g, ln_g, a, b, c1, c2, c3, low, high, KIND):
    value = tl.zeros_like(g) + b
    if LOGARITHM & KIND:
        value = a * ln_g + b
    if EXPONENTIAL & KIND:
        value = tl.exp(value)
    value += g * (c1 + g * (c2 + g * c3))
    return tl.minimum(at_least(value, low), high, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def law_of(g, ln_g, p, points, KIND: tl.constexpr):
    """A law of the normalised conductance and its logarithm."""
    if TABLE & KIND:
        value = _interpolate(g, points, p[0])
    else:
        value = _branch(g, ln_g, p[1], p[2], p[3], p[4], p[5], p[6], p[7], KIND)
        if TWO & KIND:
            above = _branch(g, ln_g, p[8], p[9], p[10], p[11], p[12], p[13], p[14], KIND // 4)
            value = tl.where(g < p[0], value, above)
    return value


@triton.jit
def _interpolate(g, points, n):
    """Linear between the points of a table, constant beyond them."""
    x = g.to(tl.float64)
    left = tl.zeros_like(g).to(tl.int32)
    right = left + (n - 1)
    while tl.max(right - left) > 1:
        middle = (left + right) // 2
        lower = x < tl.load(points + middle)
        right = tl.where(lower, middle, right)
        left = tl.where(lower, left, middle)
    start = tl.load(points + left)
    width = tl.load(points + right) - start
    f = (x - start) / tl.where(right > left, width, 1.0)
    below = tl.load(points + n + left)
    above = tl.load(points + n + right)
    value = tl.where(f <= 0.0, below, tl.where(f >= 1.0, above, below + f * (above - below))).to(tl.float32)
    return tl.where(g == g, value, g)


@triton.jit
def of_age(age, t0: tl.float64, t_read: tl.float64):
    """Terms that depend only on the age: ln of the drift ratio, and the square root of the noise bandwidth."""
    since = age + t0
    drift = tl.log(since / t0).to(tl.float32)
    return drift, tl.sqrt(tl.log((since + t_read) / (2.0 * t_read))).to(tl.float32)
