"""How a pulse changes a device, and the noise of a weight's pulse: the laws of ``phasegrad.ops.pulses``."""

from __future__ import annotations

import triton
import triton.language as tl

from phasegrad.ops import pulses
from phasegrad.ops.triton.philox import log

LINEAR: tl.constexpr = tl.constexpr(pulses.LINEAR)
EXPONENTIAL: tl.constexpr = tl.constexpr(pulses.EXPONENTIAL)
POWER: tl.constexpr = tl.constexpr(pulses.POWER)
PIECEWISE: tl.constexpr = tl.constexpr(pulses.PIECEWISE)
TABLE: tl.constexpr = tl.constexpr(pulses.TABLE)
HISTORY: tl.constexpr = tl.constexpr(pulses.HISTORY)

GOLDEN: tl.constexpr = tl.constexpr(0x9E3779B9)


@triton.jit
def mix(x):
    """Wellons' lowbias32 of uint32 words."""
    x = x ^ (x >> 16)
    x = x * 0x21F0AAAD
    x = x ^ (x >> 15)
    x = x * 0x735A2D97
    return x ^ (x >> 15)


@triton.jit
def keys(weight, seed, offset):
    """A word for each weight, from its int64 index and the splitmix64 of seed and offset."""
    z = seed.to(tl.uint64) + offset.to(tl.uint64) * 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    z = z ^ (z >> 31)
    return mix(mix(weight.to(tl.uint32) + z.to(tl.uint32)) ^ (z >> 32).to(tl.uint32) ^ (weight >> 32).to(tl.uint32))


@triton.jit
def coefficients_of(pointer, FAMILY: tl.constexpr):
    """The first eight numbers of a law; those that it does not have are 0."""
    COUNT: tl.constexpr = 4 if FAMILY == LINEAR else 7 if FAMILY == EXPONENTIAL else 8 if FAMILY == HISTORY else 3
    c0 = tl.load(pointer)
    c1 = tl.load(pointer + 1)
    c2 = tl.load(pointer + 2)
    c3 = tl.load(pointer + 3) if COUNT > 3 else 0.0
    c4 = tl.load(pointer + 4) if COUNT > 4 else 0.0
    c5 = tl.load(pointer + 5) if COUNT > 4 else 0.0
    c6 = tl.load(pointer + 6) if COUNT > 4 else 0.0
    c7 = tl.load(pointer + 7) if COUNT > 7 else 0.0
    return c0, c1, c2, c3, c4, c5, c6, c7


@triton.jit
def rate_of(low, high, c, FAMILY: tl.constexpr, DOWN: tl.constexpr):
    """What a law divides by at every pulse: the decrease of a step per conductance, or the inverse of the range."""
    if FAMILY == LINEAR:
        rate = -c[2] / (c[3] - low) if DOWN else c[1] / (high - c[3])
    else:
        rate = 1.0 / (high - low)
    return rate


@triton.jit
def change(g, p, low, high, rate, down, xi, u, c, tables, FAMILY: tl.constexpr):
    """The step in units of the device's step size, noise included; downward steps count as positive."""
    if FAMILY == LINEAR:
        m = tl.maximum(1.0 - rate * (g - c[3]), 0.0)
        m = tl.where((c[1] == 0.0) & (c[2] == 0.0), 1.0, m) * (1.0 + c[0] * xi)
    elif FAMILY == EXPONENTIAL:
        z = 2.0 * c[5] * g * rate + c[6]
        e = tl.exp(tl.where(down, -c[4], c[2]) * z)
        m = tl.maximum(1.0 - tl.where(down, c[3], c[1]) * e, 0.0) * (1.0 + c[0] * xi)
    elif FAMILY == POWER:
        left = tl.where(down, g - low, high - g) * rate
        power = tl.where(down, c[2], c[1])
        some = tl.exp(power * log(tl.maximum(left, 1.17549435e-38)))
        m = tl.where(left > 0.0, some, tl.where(power > 0.0, 0.0, 1.0)) * (1.0 + c[0] * xi)
    elif FAMILY == PIECEWISE:
        n = c[1].to(tl.int32)
        left, f = _cell((g - low) * rate, n)
        at = tables + 2 + tl.where(down, n, 0) + left
        m = (tl.load(at) * (1.0 - f) + tl.load(at + 1) * f) * (1.0 + c[0] * xi)
    elif FAMILY == TABLE:
        n_g = c[1].to(tl.int32)
        n_q = c[2].to(tl.int32)
        row, f = _cell((g - low) * rate, n_g)
        column, h = _cell(u, n_q)
        at = tables + 3 + tl.where(down, n_g * n_q, 0) + row * n_q + column
        lower = tl.load(at) * (1.0 - h) + tl.load(at + 1) * h
        upper = tl.load(at + n_q) * (1.0 - h) + tl.load(at + n_q + 1) * h
        m = lower * (1.0 - f) + upper * f
    else:
        m = c[2] * g + c[3] + c[4] * p + (c[5] * g + c[6] + c[7] * p) * xi
    return m


@triton.jit
def _cell(at, n):
    """Where a position in [0, 1] is among ``n`` equidistant points: the point to its left, and the fraction beyond."""
    scaled = tl.minimum(tl.maximum(at, 0.0), 1.0) * (n - 1).to(tl.float32)
    left = tl.minimum(scaled.to(tl.int32), n - 2)
    return left, scaled - left.to(tl.float32)
