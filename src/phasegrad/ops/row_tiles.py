"""Products of row-tiles in groups: many small tiles in one call, large ones alone so that outputs fit the cache."""

from __future__ import annotations

from torch import Tensor


def tile_groups(tiles: int, whole: int, outputs: int, cached: int) -> list[slice]:
    """Tiles to be multiplied in one call: many if they are small, one at a time if they are large, to fit the cache.

    The first ``whole`` tiles have all their rows; a shorter last tile is multiplied alone.

    Args:
        tiles: number of tiles.
        whole: number of tiles that have all rows.
        outputs: outputs of one tile for all samples.
        cached: outputs that fit the cache.
    """
    step = max(1, cached // max(outputs, 1))
    starts = [*range(0, whole, step), *range(whole, tiles)]
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], tiles], strict=True)]


def by_tile(matrix: Tensor, tiles: slice, rows: int) -> Tensor:
    """Columns of a matrix as ``[tiles, rows of the matrix, columns of one tile]``."""
    columns = matrix[:, tiles.start * rows : tiles.stop * rows]
    count = tiles.stop - tiles.start
    return columns.unsqueeze(0) if count == 1 else columns.unflatten(1, (count, -1)).transpose(0, 1)
