"""The weighted sum of planes of devices, some of them read with noise, in one pass; and leaks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from phasegrad.ops.arguments import TrackedWeight
from phasegrad.ops.triton import launch as launches
from phasegrad.ops.triton.devices import lanes, normals_of
from phasegrad.ops.triton.launch import flat_grid, launch
from phasegrad.ops.triton.laws import at_least


@triton.jit
def _others(total, other_planes, factors, at, inside, count, PLANES: tl.constexpr, OTHERS: tl.constexpr):
    """Add the planes that are read without noise, and the offset."""
    for plane in tl.static_range(OTHERS):
        total += tl.load(other_planes + plane * count + at, mask=inside, other=0.0) * factors[1 + PLANES + plane]
    return total + factors[0]


@triton.jit(do_not_specialize=["offset"])
def _weighted_sum(
    out, conductance, other_planes, factors, sd, count, seed, offset, PLANES: tl.constexpr, OTHERS: tl.constexpr,
    NOISY: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0).to(tl.int64) * BLOCKS
    at = 4 * block + lanes(BLOCKS)
    inside = at < count
    stride = tl.cast(count, tl.int64)
    total = tl.zeros((BLOCKS, 2, 2), tl.float32)
    for plane in tl.static_range(PLANES):
        g = tl.load(conductance + plane * stride + at, mask=inside, other=0.0)
        if NOISY:
            z = normals_of(tl.load(seed), tl.cast(offset, tl.int64) + plane, block, BLOCKS)
            g = at_least(g + (sd[0] + g * (sd[1] + g * sd[2])) * z, 0.0)
        total += g * factors[1 + plane]
    tl.store(out + at, _others(total, other_planes, factors, at, inside, stride, PLANES, OTHERS), mask=inside)


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
        TRACKED=weight is not None, BLOCK=LEAK,
    )  # fmt: skip
