"""How a weight matrix ``[out, in]`` lies on tiles of ``rows`` inputs by ``columns`` outputs.

Row-tile ``t`` holds inputs ``t * rows`` to ``(t + 1) * rows``; the scale of its column ``o`` is ``scale[t, o]``, and
the cell holds ``w[o, i] / scale[t, o]``, which lies in [-1, 1]. A cut along ``out`` changes no arithmetic; it matters
for scales by tile and for counting tiles.
"""

from __future__ import annotations

import torch
from torch import Tensor

from phasegrad.crossbar.hardware import Hardware


def row_tiles(in_features: int, hardware: Hardware) -> int:
    """How many tiles share one output."""
    return -(-in_features // hardware.rows)


def tile_count(out_features: int, in_features: int, hardware: Hardware) -> int:
    """How many tiles a matrix needs."""
    return row_tiles(in_features, hardware) * -(-out_features // hardware.columns)


def expand_scale(scale: Tensor, in_features: int, hardware: Hardware) -> Tensor:
    """One number a tile and column, ``[row tiles, out]``, as a matrix ``[out, in]``."""
    return scale.t().repeat_interleave(hardware.rows, dim=1)[:, :in_features]  # in the order of a weight's memory


def nonzero(scale: Tensor) -> Tensor:
    """What to divide by: a column of zeros has no scale."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def sum_over_tiles(values: Tensor, columns: int, per: str) -> Tensor:
    """Sum ``[row tiles, out]`` over the columns of a tile, or over the layer, and spread the sum out again.

    Args:
        values: one number a tile and column.
        columns: outputs that share a tile.
        per: ``"column"`` (no sum), ``"tile"``, or ``"layer"``.
    """
    if per == "column":
        return values
    if per == "layer":
        return values.sum().expand_as(values)
    blocks = [b.sum(1, keepdim=True).expand_as(b) for b in values.split(columns, dim=1)]
    return torch.cat(blocks, dim=1)
