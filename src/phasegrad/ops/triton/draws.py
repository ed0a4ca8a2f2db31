"""Random numbers with Triton."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from phasegrad.ops.triton import launch, philox
from phasegrad.ops.triton.launch import flat_grid


@triton.jit(do_not_specialize=["offset"])
def _draws(out, seed, offset, count, NORMAL: tl.constexpr, BLOCKS: tl.constexpr):
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    key = tl.load(seed)
    if NORMAL:
        a, b, c, d = philox.normals(key, offset, block)
    else:
        a, b, c, d = philox.uniforms(key, offset, block)
    _store(out, a, philox.place(block, 0), count)
    _store(out, b, philox.place(block, 1), count)
    _store(out, c, philox.place(block, 2), count)
    _store(out, d, philox.place(block, 3), count)


@triton.jit
def _store(out, value, n, count):
    tl.store(out + n, value, mask=n < count)


def _drawn(seed: Tensor, offset: int, size: Sequence[int], normal: bool) -> Tensor:
    out = torch.empty(tuple(size), dtype=torch.float32, device=seed.device)
    grid = flat_grid(math.prod(size), launch.BLOCKS)
    launch.launch(_draws, grid, out, seed, offset, out.numel(), like=out, NORMAL=normal, BLOCKS=launch.BLOCKS)
    return out


def normal(seed: Tensor, offset: int, size: Sequence[int]) -> Tensor:
    return _drawn(seed, offset, size, True)


def uniform(seed: Tensor, offset: int, size: Sequence[int]) -> Tensor:
    return _drawn(seed, offset, size, False)
