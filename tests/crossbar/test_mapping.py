"""Mapping of a matrix to tiles: counts and scales, compared with NumPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import phasegrad as pg
from phasegrad.crossbar.mapping import expand_scale, row_tiles, tile_count
from phasegrad.stores.digital import digital_weights

ROWS, COLUMNS = 4, 3
HARDWARE = replace(pg.presets.ideal_inference(), rows=ROWS, columns=COLUMNS)
SEED = torch.zeros(1, dtype=torch.int64)


def matrix(out_features: int = 7, in_features: int = 10) -> Tensor:
    return torch.randn(out_features, in_features, generator=torch.Generator().manual_seed(0))


def blocks(out_features: int, in_features: int) -> list[tuple[int, slice, slice]]:
    """Index of the row tile, outputs and inputs of every tile."""
    return [
        (t, slice(o, o + COLUMNS), slice(i, i + ROWS))
        for t, i in enumerate(range(0, in_features, ROWS))
        for o in range(0, out_features, COLUMNS)
    ]


@pytest.mark.parametrize(
    ("out", "inputs", "rows", "tiles"), [(3, 4, 1, 1), (4, 4, 1, 2), (3, 5, 2, 2), (7, 10, 3, 9), (1, 1, 1, 1)]
)
def test_partial_tiles_count_as_tiles(out: int, inputs: int, rows: int, tiles: int) -> None:
    assert row_tiles(inputs, HARDWARE) == rows
    assert tile_count(out, inputs, HARDWARE) == tiles
    assert pg.nn.AnalogLinear(inputs, out, hardware=HARDWARE).tiles == tiles


def test_column_scale_is_the_largest_weight_of_each_tiles_column() -> None:
    w = matrix().numpy()
    expected = np.zeros((3, 7), np.float32)
    for t, outputs, inputs in blocks(7, 10):
        expected[t, outputs] = np.abs(w[outputs, inputs]).max(1)
    found = digital_weights(torch.from_numpy(w), HARDWARE, None, None).scale
    np.testing.assert_array_equal(found.numpy(), expected)


def test_tile_scale_is_the_largest_weight_of_each_tile() -> None:
    w = matrix().numpy()
    expected = np.zeros((3, 7), np.float32)
    for t, outputs, inputs in blocks(7, 10):
        expected[t, outputs] = np.abs(w[outputs, inputs]).max()
    found = digital_weights(torch.from_numpy(w), replace(HARDWARE, scale="tile"), None, None).scale
    np.testing.assert_array_equal(found.numpy(), expected)


def test_a_column_of_zeros_has_scale_zero() -> None:
    w = matrix()
    w[2, :ROWS] = 0.0
    scale = digital_weights(w, HARDWARE, None, None).scale
    assert scale[0, 2] == 0.0
    assert (scale > 0).sum() == scale.numel() - 1


def test_expand_scale_assigns_each_scale_to_its_weights() -> None:
    w = matrix()
    full = expand_scale(digital_weights(w, HARDWARE, None, None).scale, 10, HARDWARE)
    for _, outputs, inputs in blocks(7, 10):
        expected = w[outputs, inputs].abs().amax(1, keepdim=True).expand(-1, full[outputs, inputs].shape[1])
        assert torch.equal(full[outputs, inputs], expected)
