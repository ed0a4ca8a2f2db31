"""Rewriting a chip restarts its drift, and costs time, energy and wear."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.cost import Technology
from phasegrad.inference import (
    AmplitudeSteps,
    ReferenceColumns,
    WriteVerify,
    accuracy_over_time,
    age,
    compensate,
    now,
    program,
    programming_record,
    refresh,
)

YEAR, MONTH = 3.15e7, 2.6e6


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)
        self.last.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu())


def _quiet() -> pg.Hardware:
    cell = pg.cells.DifferentialPair(device=pg.devices.joshi_2020())
    return dataclasses.replace(pg.presets.ideal_inference(), cell=cell)


def test_a_rewritten_chip_is_as_one_that_was_programmed_then() -> None:
    net = pg.convert(nn.Linear(64, 64, bias=False), _quiet())
    chip = program(net, seed=0)
    old = age(chip, until=12.5 * MONTH)
    fresh = refresh(chip, net, every=MONTH, until=12.5 * MONTH, seed=1)
    young = age(program(net, seed=7), seconds=0.5 * MONTH)
    assert (fresh.rewrites, now(fresh.chip)) == (12, 12.5 * MONTH)
    sizes = [float(c.weight.abs().sum()) for c in (fresh.chip, young, old)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)  # of 4,096 weights with a relative sd of 0.3: 0.5 %
    assert sizes[2] < 0.95 * sizes[0]
    assert float(chip.devices.clock) == 0.0  # untouched
    assert torch.equal(chip.weight, program(net, seed=0).weight)


def test_rewrites_are_at_multiples_of_the_interval() -> None:
    net = pg.convert(nn.Linear(4, 4), _quiet())
    chip = age(program(net, seed=0), until=2.0 * MONTH)
    assert refresh(chip, net, every=MONTH, until=2.9 * MONTH).rewrites == 0
    due = refresh(chip, net, every=MONTH, until=3.0 * MONTH, seed=0)
    assert due.rewrites == 1
    assert float(due.chip.devices.programmed_at) == 3.0 * MONTH
    assert refresh(due.chip, net, every=MONTH, until=3.0 * MONTH).rewrites == 0  # not twice


def test_a_process_tells_what_rewriting_costs() -> None:
    cell = pg.cells.DifferentialPair(device=pg.devices.melt_and_quench())
    net = pg.convert(nn.Linear(6, 4), dataclasses.replace(pg.presets.ideal_inference(), cell=cell))
    how = WriteVerify(strategy=AmplitudeSteps(), iterations=5)
    done = refresh(program(net, seed=0), net, every=MONTH, until=YEAR, how=how, seed=1, endurance=1e6)
    (record,) = programming_record(done.chip).values()
    assert done.rewrites == 12
    assert done.writes == 12 * int(record.pulses.max())
    assert done.time == pytest.approx(12 * float(record.time.max()))
    assert done.energy == pytest.approx(12 * float(record.energy.sum()))
    assert done.wear == pytest.approx(done.writes / 1e6)


def test_constants_of_a_technology_tell_what_rewriting_costs() -> None:
    technology = Technology(programming_energy=1e-9, programming_time=1e-6, programmed_together=8)
    net = pg.convert(nn.Linear(24, 12), dataclasses.replace(_quiet(), rows=10, columns=4))
    done = refresh(program(net, seed=0), net, every=MONTH, until=YEAR, costs=technology, seed=1)
    assert done.energy == pytest.approx(12 * 24 * 12 * 2 * 1e-9)
    assert done.time == pytest.approx(12 * 10 * 1e-6)  # 80 devices of a tile, 8 at a time
    assert done.wear is None
    with pytest.raises(ValueError, match="programming_energy = None"):
        refresh(program(net, seed=0), net, every=MONTH, until=YEAR, costs=Technology())


def test_tied_layers_stay_tied_and_reference_columns_are_rewritten() -> None:
    torch.manual_seed(0)
    net = pg.convert(Tied(), _quiet())
    chip = compensate(age(program(net, seed=0), seconds=YEAR), ReferenceColumns(), seed=0)
    done = refresh(chip, net, every=MONTH, until=YEAR + MONTH, seed=1).chip
    assert done.first.devices is done.last.devices
    assert float(done.first.devices.drift_reference.programmed_at) == float(done.first.devices.programmed_at)
    assert torch.equal(done.first.weight, done.last.weight)
    x, again = torch.randn(3, 8), copy.deepcopy(done)
    torch.manual_seed(0)
    y = done(x)
    torch.manual_seed(0)
    assert torch.equal(again(x), y)


def test_accuracy_over_time_with_refreshes() -> None:
    net = pg.convert(nn.Linear(64, 64, bias=False), _quiet())
    size = net.weight.detach().abs().sum().item()

    def kept(chip: nn.Module) -> float:
        return chip.weight.detach().abs().sum().item() / size  # type: ignore[operator, union-attr]

    options: dict[str, Any] = {"chips": 2, "progress": False, "compensation": None}
    without = accuracy_over_time(net, kept, (0.0, MONTH, YEAR), **options)
    refreshed = accuracy_over_time(net, kept, (0.0, MONTH, YEAR), refresh=MONTH, **options)
    assert (without.values[0] == refreshed.values[0]).all()
    assert (refreshed.values[1:] > without.values[1:]).all()
    assert refreshed.mean()[1] == pytest.approx(refreshed.mean()[0], rel=0.02)  # a rewrite is due then


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"every": 0.0}, "every = 0"),
        ({"until": -1.0}, "until = -1"),
        ({"endurance": 5.0}, "above endurance = 5"),
        ({"net": pg.convert(nn.Linear(8, 4), _quiet())}, "no layer of the same shape"),
        ({"net": program(pg.convert(nn.Linear(4, 4), _quiet()), seed=0)}, "is programmed"),
        ({"chip": pg.convert(nn.Linear(4, 4), _quiet())}, "never programmed"),
        ({"chip": pg.convert(nn.Linear(4, 4), pg.presets.pcm_pair_training())}, "in memory"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], match: str) -> None:
    net = pg.convert(nn.Linear(4, 4), _quiet())
    arguments: dict[str, Any] = {"chip": program(net, seed=0), "net": net, "every": MONTH, "until": YEAR} | options
    with pytest.raises(ValueError, match=match):
        refresh(arguments.pop("chip"), arguments.pop("net"), **arguments)


def test_a_later_time_cannot_be_before_the_present_one() -> None:
    net = pg.convert(nn.Linear(4, 4), _quiet())
    chip = age(program(net, seed=0), until=YEAR)
    with pytest.raises(ValueError, match="before the chip's present time"):
        refresh(chip, net, every=MONTH, until=MONTH)
