"""Time of write heads on diagonals."""

from __future__ import annotations

import pytest
import torch

from phasegrad.stores.programming.diagonals import Diagonals
from phasegrad.stores.programming.schedule import Geometry


@pytest.mark.parametrize(("rows", "columns", "cycles"), [(256, 256, 2048), (100, 40, 200), (7, 33, 33), (1, 1, 1)])
def test_every_cell_is_visited_once_per_device(rows, columns, cycles):
    tile = Geometry(rows=rows, columns=columns, devices=2)
    time = Diagonals(heads=32).pulse_time(torch.tensor([5]), 125e-9, tile)
    assert time.item() == pytest.approx(2 * cycles * 125e-9)


def test_thirty_iterations_of_a_hermes_core_take_about_25_ms():
    core, busy = Geometry(rows=256, columns=256, devices=2), torch.tensor([1])
    schedule = Diagonals(heads=32)
    per_iteration = schedule.pulse_time(busy, 125e-9, core) + schedule.read_time(busy, 512e-9, core)
    assert 30 * per_iteration.item() == pytest.approx(27.16e-3, rel=0.001)
    one_read = Diagonals(heads=32, polarities=1)  # if only the wanted polarity is read
    per_iteration = one_read.pulse_time(busy, 125e-9, core) + one_read.read_time(busy, 512e-9, core)
    assert 30 * per_iteration.item() == pytest.approx(21.26e-3, rel=0.001)


def test_idle_tiles_take_no_time():
    tile = Geometry(rows=8, columns=8, devices=2)
    assert Diagonals().pulse_time(torch.tensor([0, 3]), 1e-7, tile).gt(0.0).tolist() == [False, True]
    assert Diagonals().read_time(torch.tensor([0, 3]), 1e-7, tile).gt(0.0).tolist() == [False, True]


def test_refuses_no_heads():
    with pytest.raises(ValueError, match="heads"):
        Diagonals(heads=0)
    with pytest.raises(ValueError, match="settling"):
        Diagonals(settling=-1e-9)
