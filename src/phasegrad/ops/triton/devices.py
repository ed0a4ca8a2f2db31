"""Programming, drift and reads of PCM devices, each in one pass over memory.

Programming reads 4 bytes a device and writes 8, a read reads 8 and writes 4. The two normals of programming cost about
as much time on an H100 as its memory traffic, and run beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from phasegrad.ops import reference
from phasegrad.ops.triton import launch as launches
from phasegrad.ops.triton.launch import all_floats, flat_grid, launch
from phasegrad.ops.triton.laws import at_least, encode, law_of, ln_of, of_age
from phasegrad.ops.triton.philox import normals


@triton.jit
def lanes(BLOCKS: tl.constexpr):
    """Where the values of a program's blocks are among the program's values ``[BLOCKS, 2, 2]``."""
    lane = tl.arange(0, BLOCKS)[:, None, None]
    word = 2 * tl.arange(0, 2)[None, :, None] + tl.arange(0, 2)[None, None, :]
    return 64 * (lane // 16) + 16 * word + lane % 16


@triton.jit
def normals_of(seed, offset, first, BLOCKS: tl.constexpr):
    """The normals of ``BLOCKS`` blocks from ``first`` on, in the places of ``lanes``."""
    a, b, c, d = normals(seed, offset, first + tl.arange(0, BLOCKS))
    return tl.join(tl.join(a, c), tl.join(b, d))


@triton.jit(do_not_specialize=["offset"])
def _pcm_program(
    conductance, nu, target, count, seed, offset, inverse, sd, mean, mean_points, spread, spread_points,
    TERMS: tl.constexpr, MEAN: tl.constexpr, SPREAD: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0).to(tl.int64) * BLOCKS
    at = 4 * block + lanes(BLOCKS)
    inside = at < count
    key = tl.load(seed)
    t = tl.load(target + at, mask=inside, other=0.0)
    g = t * inverse
    ln_g = ln_of(g)
    deviation = tl.zeros_like(g) + sd[TERMS - 1]
    for k in tl.static_range(1, TERMS):
        deviation = deviation * g + sd[TERMS - 1 - k]
    programmed = t + at_least(deviation, 0.0) * normals_of(key, offset, block, BLOCKS)
    tl.store(conductance + at, at_least(programmed, 0.0), mask=inside)
    z = normals_of(key, tl.cast(offset, tl.int64) + 1, block, BLOCKS)
    exponent = law_of(g, ln_g, mean, mean_points, MEAN) + law_of(g, ln_g, spread, spread_points, SPREAD) * z
    tl.store(nu + at, tl.abs(exponent), mask=inside)


def pcm_program(
    target: Tensor,
    seed: Tensor,
    offset: int,
    g_max: float,
    programming_sd: Sequence[float],
    nu_mean: Sequence[float],
    nu_sd: Sequence[float],
) -> tuple[Tensor, Tensor]:
    if not all_floats(target):
        return reference.pcm_program(target, seed, offset, g_max, programming_sd, nu_mean, nu_sd)
    target = target.contiguous()
    conductance, nu = torch.empty_like(target), torch.empty_like(target)
    mean, spread = encode(nu_mean, target.device), encode(nu_sd, target.device)
    launch(
        _pcm_program, flat_grid(target.numel(), launches.BLOCKS), conductance, nu, target, target.numel(), seed,
        offset, 1.0 / g_max, tuple(map(float, programming_sd)), *mean[1:], *spread[1:], like=target,
        TERMS=len(programming_sd), MEAN=mean.kind, SPREAD=spread.kind, BLOCKS=launches.BLOCKS,
    )  # fmt: skip
    return conductance, nu


@triton.jit
def moments(conductance, nu, at, inside, drift, bandwidth, inverse, law, points, NOISY: tl.constexpr,
            LAW: tl.constexpr):  # fmt: skip
    """The drifted conductances of some devices, and the standard deviations of a read."""
    programmed = tl.load(conductance + at, mask=inside, other=0.0)
    mean = programmed * tl.exp(-tl.load(nu + at, mask=inside, other=0.0) * drift)
    sd = tl.zeros_like(mean)
    if NOISY:
        relative = programmed * inverse
        sd = mean * law_of(relative, ln_of(relative), law, points, LAW) * bandwidth
    return mean, sd


@triton.jit(do_not_specialize=["offset"])
def _pcm_read(
    out, sds, conductance, nu, ages, count, seed, offset, inverse, t0: tl.float64, t_read: tl.float64, law, points,
    PER_DEVICE: tl.constexpr, NOISY: tl.constexpr, MOMENTS: tl.constexpr, LAW: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0).to(tl.int64) * BLOCKS
    at = 4 * block + lanes(BLOCKS)
    inside = at < count
    age = tl.load(ages + at, mask=inside, other=0.0) if PER_DEVICE else tl.load(ages)
    drift, bandwidth = of_age(age, t0, t_read)
    mean, sd = moments(conductance, nu, at, inside, drift, bandwidth, inverse, law, points, NOISY, LAW)
    if MOMENTS:
        tl.store(sds + at, sd, mask=inside)
    elif NOISY:
        mean = at_least(mean + sd * normals_of(tl.load(seed), offset, block, BLOCKS), 0.0)
    tl.store(out + at, mean, mask=inside)


NO_LAW = (0.0, float("inf"), *(0.0,) * 16)


def _read(
    out: Tensor, sd: Tensor | None, conductance: Tensor, nu: Tensor, age: Tensor, seed: Tensor | None, offset: int,
    g_max: float, t0: float, t_read: float, noise: Sequence[float],
) -> None:  # fmt: skip
    per_device = age.numel() != 1
    age = (age.expand(conductance.shape) if per_device else age).double().contiguous()
    law = encode(noise or NO_LAW, conductance.device)
    launch(
        _pcm_read, flat_grid(out.numel(), launches.BLOCKS), out, sd, conductance.contiguous(), nu.contiguous(), age,
        out.numel(), seed, offset, 1.0 / g_max, t0, t_read, *law[1:], like=out, PER_DEVICE=per_device,
        NOISY=bool(noise), MOMENTS=sd is not None, LAW=law.kind, BLOCKS=launches.BLOCKS,
    )  # fmt: skip


def pcm_read(
    conductance: Tensor,
    nu: Tensor,
    age: Tensor,
    seed: Tensor,
    offset: int,
    g_max: float,
    t0: float,
    t_read: float,
    noise: Sequence[float],
) -> Tensor:
    if not all_floats(conductance, nu):
        return reference.pcm_read(conductance, nu, age, seed, offset, g_max, t0, t_read, noise)
    out = torch.empty_like(conductance, memory_format=torch.contiguous_format)
    _read(out, None, conductance, nu, age, seed, offset, g_max, t0, t_read, noise)
    return out


def pcm_moments(
    conductance: Tensor, nu: Tensor, age: Tensor, g_max: float, t0: float, t_read: float, noise: Sequence[float]
) -> tuple[Tensor, Tensor]:
    if not all_floats(conductance, nu):
        return reference.pcm_moments(conductance, nu, age, g_max, t0, t_read, noise)
    mean, sd = (torch.empty_like(conductance, memory_format=torch.contiguous_format) for _ in range(2))
    _read(mean, sd, conductance, nu, age, None, 0, g_max, t0, t_read, noise)
    return mean, sd
