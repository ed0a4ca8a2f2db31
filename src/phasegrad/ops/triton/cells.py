"""The weights of cells, read from their devices in one pass: drift, read noise, sum over the devices, scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from phasegrad.ops import reference
from phasegrad.ops.triton import launch as launches
from phasegrad.ops.triton.devices import NO_LAW, lanes, moments, normals_of
from phasegrad.ops.triton.launch import all_floats, flat_grid, launch
from phasegrad.ops.triton.laws import at_least, encode, of_age
from phasegrad.ops.triton.philox import box_muller, words


@triton.jit
def _normals_at(seed, offset, n):
    """Normals ``n`` of a stream, wherever they are: four times the words of ``philox.normals``."""
    a, b, c, d = words(seed, offset, 16 * (n // 64) + n % 16)
    word = (n // 16) % 4
    first, second = box_muller(tl.where(word < 2, a, c), tl.where(word < 2, b, d))
    return tl.where(word % 2 == 0, first, second)


@triton.jit
def _read_devices(conductance, other, at, inside, z, drift, bandwidth, inverse, law, points, KEPT: tl.constexpr,
                  NOISY: tl.constexpr, LAW: tl.constexpr):  # fmt: skip
    """Devices as one read sees them; ``other`` are their drift exponents, or deviations kept from an earlier read."""
    if KEPT:
        value = tl.load(conductance + at, mask=inside, other=0.0)
        sd = tl.load(other + at, mask=inside, other=0.0) if NOISY else value
    else:
        value, sd = moments(conductance, other, at, inside, drift, bandwidth, inverse, law, points, NOISY, LAW)
    return at_least(value + sd * z, 0.0) if NOISY else value


@triton.jit
def scale_of(scale, at, out, features, rows, inside, WIDE: tl.constexpr):
    """The scale of weights whose flat index is given: that of their output and row tile."""
    index = at if WIDE else at.to(tl.int32)
    row = index // features
    tile = (index - row * features) // rows
    return tl.load(scale + tile * out + row, mask=inside, other=0.0)


@triton.jit(do_not_specialize=["offset"])
def _cells(
    weight, conductance, other, ages, scale, out, features, rows, seed, offset, inverse, t0: tl.float64,
    t_read: tl.float64, law, points, factors, PLANES: tl.constexpr, KEPT: tl.constexpr, NOISY: tl.constexpr,
    LAW: tl.constexpr, SCALED: tl.constexpr, SHIFTED: tl.constexpr, ALIGNED: tl.constexpr, WIDE: tl.constexpr,
    BLOCKS: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0).to(tl.int64) * BLOCKS
    at = 4 * block + lanes(BLOCKS)
    count = tl.cast(out, tl.int64) * features
    inside = at < count
    drift = 0.0
    bandwidth = 0.0
    if not KEPT:
        drift, bandwidth = of_age(tl.load(ages), t0, t_read)
    total = tl.zeros((BLOCKS, 2, 2), tl.float32)
    for plane in tl.static_range(PLANES):
        z = total
        if NOISY and ALIGNED:  # groups of 64 normals begin where planes do
            z = normals_of(tl.load(seed), offset, block + plane * count // 4, BLOCKS)
        elif NOISY:
            z = _normals_at(tl.load(seed), offset, plane * count + at)
        value = _read_devices(conductance, other, plane * count + at, inside, z, drift, bandwidth, inverse, law, points,
                              KEPT, NOISY, LAW)  # fmt: skip
        if SCALED and plane > 0:  # as torch adds multiples
            total = tl.fma(value, tl.zeros_like(value) + factors[1 + plane], total)
        else:
            total += value * factors[1 + plane]
    if SHIFTED:
        total += factors[0]
    if SCALED:
        total *= scale_of(scale, at, out, features, rows, inside, WIDE)
    tl.store(weight + at, total, mask=inside)


def _read(
    conductance: Tensor, other: Tensor, age: Tensor | None, seed: Tensor, offset: int, physics: tuple[Any, ...],
    factors: Sequence[float], scale: Tensor | None, rows: int, **constants: bool,
) -> Tensor:  # fmt: skip
    planes, out, features = conductance.shape
    weight = torch.empty((out, features), dtype=torch.float32, device=conductance.device)
    g_max, t0, t_read, law = physics
    encoded = encode(law or NO_LAW, conductance.device)
    launch(
        _cells, flat_grid(weight.numel(), launches.BLOCKS), weight, conductance.contiguous(), other.contiguous(), age,
        None if scale is None else scale.contiguous(), out, features, rows, seed, offset, 1.0 / g_max, t0, t_read,
        *encoded[1:], tuple(map(float, factors)), like=weight, PLANES=planes, LAW=encoded.kind,
        SCALED=scale is not None, SHIFTED=scale is None or factors[0] != 0.0, ALIGNED=weight.numel() % 64 == 0,
        WIDE=weight.numel() >= 1 << 31, **constants, BLOCKS=launches.BLOCKS,
    )  # fmt: skip
    return weight


def pcm_cells(
    conductance: Tensor,
    nu: Tensor,
    age: Tensor,
    seed: Tensor,
    offset: int,
    g_max: float,
    t0: float,
    t_read: float,
    noise: Sequence[float],
    factors: Sequence[float],
    scale: Tensor | None,
    rows: int,
) -> Tensor:
    if not all_floats(conductance, nu, scale):
        return reference.pcm_cells(
            conductance, nu, age, seed, offset, g_max, t0, t_read, noise, factors, scale, rows
        )  # fmt: skip
    physics = (g_max, t0, t_read, noise)
    return _read(
        conductance, nu, age.double(), seed, offset, physics, factors, scale, rows, KEPT=False, NOISY=bool(noise)
    )


def noisy_cells(
    mean: Tensor,
    sd: Tensor | None,
    seed: Tensor,
    offset: int,
    factors: Sequence[float],
    scale: Tensor | None,
    rows: int,
) -> Tensor:
    if not all_floats(mean, sd, scale):
        return reference.noisy_cells(mean, sd, seed, offset, factors, scale, rows)
    other = mean if sd is None else sd
    physics = (1.0, 1.0, 1.0, ())
    return _read(mean, other, None, seed, offset, physics, factors, scale, rows, KEPT=True, NOISY=sd is not None)
