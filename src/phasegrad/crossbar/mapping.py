"""Mapping of a weight matrix ``[out, in]`` to tiles of ``rows`` inputs by ``columns`` outputs.

Row tile ``t`` contains inputs ``t * rows`` to ``(t + 1) * rows``. The scale of its column ``o`` is ``scale[t, o]``, and
a cell stores ``w[o, i] / scale[t, o]``, which is in [-1, 1]. The division along ``out`` affects only scales per tile
and the number of tiles, not the arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor

from phasegrad.crossbar.hardware import Hardware


def row_tiles(in_features: int, hardware: Hardware) -> int:
    """Number of tiles that contribute to one output."""
    return -(-in_features // hardware.rows)


def tile_count(out_features: int, in_features: int, hardware: Hardware) -> int:
    """Number of tiles of a matrix."""
    return row_tiles(in_features, hardware) * -(-out_features // hardware.columns)


def fixed_scale(weight: Tensor, hardware: Hardware) -> Tensor:
    """The scales ``[row tiles, out]`` of a matrix ``[out, in]`` if ``hardware.scale`` is a number."""
    return weight.new_full((row_tiles(weight.shape[1], hardware), len(weight)), float(hardware.scale))


def expand_scale(scale: Tensor, in_features: int, hardware: Hardware) -> Tensor:
    """Expand one number per tile and column, ``[row tiles, out]``, to a matrix ``[out, in]``."""
    return scale.t().repeat_interleave(hardware.rows, dim=1)[:, :in_features]  # keeps the memory layout of a weight


def nonzero(scale: Tensor) -> Tensor:
    """Replace scales of 0, which columns of zeros have, with 1, so that they can be divisors."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))
