"""Sums over columns that share a gain."""

from __future__ import annotations

import pytest
import torch

from phasegrad.stores.compensation import sum_over_tiles

COLUMNS = 3


@pytest.mark.parametrize("per", ["column", "tile", "layer"])
def test_sum_over_tiles_adds_columns_that_share_a_gain(per: str) -> None:
    values = torch.randn(3, 7, generator=torch.Generator().manual_seed(0)).abs()  # [row tiles, out]
    found = sum_over_tiles(values, COLUMNS, per)
    expected = {"column": values, "layer": values.sum().expand(3, 7)}.get(per)
    if expected is None:
        sums = [values[:, a : a + COLUMNS].sum(1, keepdim=True).expand(3, min(COLUMNS, 7 - a)) for a in (0, 3, 6)]
        expected = torch.cat(sums, 1)
    torch.testing.assert_close(found, expected)
