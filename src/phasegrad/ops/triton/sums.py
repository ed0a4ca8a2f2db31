"""The weighted sum of planes of devices, some of them read with noise, in one pass; and leaks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from phasegrad.ops.arguments import TrackedWeight
from phasegrad.ops.triton import launch as launches
from phasegrad.ops.triton.devices import lanes
from phasegrad.ops.triton.launch import flat_grid, launch
from phasegrad.ops.triton.laws import at_least
from phasegrad.ops.triton.philox import normals


@triton.jit
def _others(total, other_planes, factors, at, inside, count, PLANES: tl.constexpr, OTHERS: tl.constexpr):
    """Add the planes that are read without noise, and the offset."""
    for plane in tl.static_range(OTHERS):
        total += tl.load(other_planes + plane * count + at, mask=inside, other=0.0) * factors[1 + PLANES + plane]
    return total + factors[0]


@triton.jit(do_not_specialize=("offset",))
def _weighted_sum(
    out, conductance, other_planes, factors, sd, count, seed, offset, PLANES: tl.constexpr, OTHERS: tl.constexpr,
    NOISY: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0).to(tl.int64)
    block = first * BLOCKS + tl.arange(0, BLOCKS)
    first = first * 4 * BLOCKS
    stride = tl.cast(count, tl.int64)
    totals = (tl.zeros((BLOCKS,), tl.float32), tl.zeros((BLOCKS,), tl.float32), tl.zeros((BLOCKS,), tl.float32),
              tl.zeros((BLOCKS,), tl.float32))  # fmt: skip
    for plane in tl.static_range(PLANES):
        if NOISY:
            z = normals(tl.load(seed), tl.cast(offset, tl.int64) + plane, block)
        else:
            z = totals
        totals = (
            _add_plane(totals[0], conductance + plane * stride + first, z[0], factors[1 + plane], sd, 0,
                       count - first, NOISY, BLOCKS),
            _add_plane(totals[1], conductance + plane * stride + first, z[1], factors[1 + plane], sd, 1,
                       count - first, NOISY, BLOCKS),
            _add_plane(totals[2], conductance + plane * stride + first, z[2], factors[1 + plane], sd, 2,
                       count - first, NOISY, BLOCKS),
            _add_plane(totals[3], conductance + plane * stride + first, z[3], factors[1 + plane], sd, 3,
                       count - first, NOISY, BLOCKS),
        )  # fmt: skip
    for word in tl.static_range(4):
        at = lanes(word, BLOCKS)
        inside = at < count - first
        total = _others(totals[word], other_planes, factors, first + at, inside, stride, PLANES, OTHERS)
        tl.store(out + first + at, total, mask=inside)


@triton.jit
def _add_plane(total, plane, z, factor, sd, word, left, NOISY: tl.constexpr, BLOCKS: tl.constexpr):
    at = lanes(word, BLOCKS)
    g = tl.load(plane + at, mask=at < left, other=0.0)
    if NOISY:
        g = at_least(g + (sd[0] + g * (sd[1] + g * sd[2])) * z, 0.0)
    return total + g * factor


def weighted_sum(
    conductance: Tensor,
    other_planes: Tensor | None,
    factors: Sequence[float],
    sd: Sequence[float],
    seed: Tensor,
    offset: int,
) -> Tensor:
    conductance = conductance.contiguous()
    out = torch.empty(conductance.shape[1:], dtype=torch.float32, device=conductance.device)
    launch(
        _weighted_sum, flat_grid(out.numel(), launches.BLOCKS), out, conductance,
        None if other_planes is None else other_planes.contiguous(), tuple(map(float, factors)),
        tuple(map(float, (*sd, 0.0, 0.0, 0.0)[:3])), out.numel(), seed, offset, like=out, PLANES=len(conductance),
        OTHERS=0 if other_planes is None else len(other_planes), NOISY=bool(sd), BLOCKS=launches.BLOCKS,
        enable_fp_fusion=False,
    )  # fmt: skip
    return out


LEAK = 1024
"""Devices of a plane that a program of ``leak`` relaxes."""


@triton.jit
def _leak(
    conductance, weight, other_planes, factors, count, level, lost, PLANES: tl.constexpr, OTHERS: tl.constexpr,
    TRACKED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    stride = tl.cast(count, tl.int64)
    total = tl.zeros((BLOCK,), tl.float32)
    for plane in tl.static_range(PLANES):
        g = tl.load(conductance + plane * stride + at, mask=inside, other=0.0)
        g += (level - g) * lost
        tl.store(conductance + plane * stride + at, g, mask=inside)
        if TRACKED:
            total += g * factors[1 + plane]
    if TRACKED:
        tl.store(weight + at, _others(total, other_planes, factors, at, inside, stride, PLANES, OTHERS), mask=inside)


def leak(conductance: Tensor, level: float, lost: float, tracked: TrackedWeight) -> None:
    weight, others, factors = tracked
    count = conductance[0].numel()
    launch(
        _leak, (triton.cdiv(count, LEAK),), conductance, weight, others, tuple(map(float, factors)), count, level, lost,
        like=conductance, PLANES=len(conductance), OTHERS=0 if others is None else len(others),
        TRACKED=weight is not None, BLOCK=LEAK, enable_fp_fusion=False,
    )  # fmt: skip
