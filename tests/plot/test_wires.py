"""The figure of wires shows their IR drop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import phasegrad as pg
from phasegrad.crossbar import Wires

pytest.importorskip("matplotlib")

CELLS = torch.rand(12, 8, generator=torch.Generator().manual_seed(0)) * 25e-6


def test_wire_losses_are_drawn_into_a_file(tmp_path: Path) -> None:
    path = tmp_path / "wires.png"
    pg.plot.wire_losses(CELLS, Wires(word_line=10.0, bit_line=20.0), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000


def test_the_map_shows_voltages_and_errors_grow_with_their_order() -> None:
    wires = Wires(word_line=10.0, bit_line=20.0)
    crossing, errors = pg.plot.wire_losses(CELLS, wires).axes[:2]
    over = torch.from_numpy(np.asarray(crossing.images[0].get_array()))
    outputs = torch.ones(12, dtype=torch.float64) @ wires.effective(CELLS.double())
    torch.testing.assert_close((CELLS * over).sum(0), outputs, rtol=1e-9, atol=0.0)
    segment, plain = (np.asarray(v) for v in errors.lines[0].get_data())
    first = np.asarray(errors.lines[1].get_ydata())
    np.testing.assert_allclose(segment, 20.0 * np.array([0.01, 0.03, 0.1, 0.3, 1, 3, 10]))
    assert plain[1] / plain[0] == pytest.approx(3, rel=0.05)
    assert first[1] / first[0] == pytest.approx(9, rel=0.05)
