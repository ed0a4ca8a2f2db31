"""Programming by the length of partial SET pulses, step by step."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from phasegrad.cells import Cell, DifferentialPair, ReferencedDevice, SignificancePairs
from phasegrad.configuration import from_json
from phasegrad.devices import ideal_device, nandakumar_2018_partial_set
from phasegrad.stores.programming.row_strategies import PulseLengthByRow, pairs_of
from phasegrad.stores.programming.strategies import Run, Site, Strategy

LAW = dataclasses.replace(nandakumar_2018_partial_set(rate_sd=0.3), deviation=(0.0, 0.0))
DEVICE = dataclasses.replace(ideal_device(g_max=8e-6), partial_set=LAW)
FOUR = SignificancePairs(device=DEVICE, significances=(2.0, 1.0))
CELLS = 2000
TOLERANCE = 0.02 * DEVICE.g_max
ALL = torch.ones(1, 1, dtype=torch.bool)


def site_of(cell: Cell, weight: torch.Tensor, iterations: int = 30) -> Site:
    rows = torch.zeros(len(weight), dtype=torch.int64)
    targets = cell.targets(weight)
    return Site(cell=cell, targets=targets, relative=weight, planes=(0, 1), rows=rows, iterations=iterations)


class Bench:
    """Devices without noise that start at RESET."""

    def __init__(self, devices: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.rate = torch.randn(devices, CELLS, generator=generator)
        self.conductance = torch.full((devices, CELLS), 5e-6)
        self.weight = 2.0 * torch.rand(CELLS, generator=generator) - 1.0

    def obey(self, pulses) -> None:
        if pulses.reset is not None:
            self.conductance = torch.where(pulses.reset, LAW.lowest, self.conductance)
        if pulses.seconds is not None:
            self.conductance = LAW.after(
                self.conductance, pulses.seconds, self.rate, torch.zeros_like(self.conductance)
            )


def obeyed(bench: Bench, strategy: Strategy, cell: Cell, rounds: int) -> tuple[Run, torch.Tensor]:
    """A run after some rounds of pulses and exact reads, and which devices are not yet within tolerance."""
    run, read = strategy.begin(site_of(cell, bench.weight)), None
    unfinished = torch.ones_like(bench.conductance, dtype=torch.bool)
    for attempt in range(strategy.preparation + rounds):
        bench.obey(run.pulses(read, attempt, unfinished))
        read = bench.conductance
        if attempt + 1 >= strategy.preparation:
            unfinished &= run.residual(read).abs() > TOLERANCE
    return run, unfinished


@pytest.mark.parametrize("cell", [DifferentialPair(device=DEVICE), FOUR], ids=["pair", "four"])
def test_weights_come_out_right_without_noise(cell):
    bench, strategy = Bench(len(cell.factors)), PulseLengthByRow(alpha=1.0)
    _, unfinished = obeyed(bench, strategy, cell, 30)
    assert not unfinished.any()
    assert (cell.weight(bench.conductance) - bench.weight).abs().max() <= TOLERANCE / DEVICE.g_max + 1e-6


def begun(weight: torch.Tensor, **fields: float):
    run = PulseLengthByRow(**fields).begin(site_of(FOUR, weight))
    assert run.pulses(None, 0, torch.ones(4, len(weight), dtype=torch.bool)).reset.all()
    return run


def test_the_length_is_alpha_times_the_error():
    run = begun(torch.tensor([0.6, -0.3]), alpha=0.5, tick=1e-12)
    seconds = run.pulses(torch.zeros(4, 2), 1, ALL).seconds
    expected = [0.5 * 0.6 * DEVICE.g_max / LAW.speed, 0.5 * 0.3 * DEVICE.g_max / LAW.speed]
    assert seconds[0, 0].item() == pytest.approx(expected[0], rel=1e-3)
    assert seconds[1, 1].item() == pytest.approx(expected[1], rel=1e-3)
    assert (seconds > 0.0).sum().item() == 2


def test_an_overshoot_of_the_last_pair_is_corrected_on_its_opposite_device():
    run = begun(torch.tensor([0.6]))
    most, least = torch.tensor([[4.8e-6], [0.0], [0.0], [0.0]]), torch.tensor([[4.8e-6], [0.0], [6e-6], [0.0]])
    assert run.pulses(most, 1, ALL).seconds[2, 0] > 0.0  # the first pair is done, the second is raised
    after = run.pulses(least, 2, ALL).seconds
    assert after[3, 0] > 0.0
    assert after[2, 0] == 0.0


def test_an_overshoot_of_the_first_pair_is_left_to_the_next_one():
    run = begun(torch.tensor([0.3]))
    seconds = run.pulses(torch.tensor([[7e-6], [0.0], [0.0], [0.0]]), 1, ALL).seconds
    assert seconds[:, 0].gt(0.0).tolist() == [False, False, False, True]


def test_alpha_falls_after_an_overshoot_and_rises_after_an_undershoot():
    pair = DifferentialPair(device=DEVICE)
    weight = torch.tensor([0.5])
    run = PulseLengthByRow(alpha=1.0, lower=0.5, higher=1.2, tick=1e-13).begin(site_of(pair, weight))
    run.pulses(None, 0, ALL)
    per = LAW.speed

    def alpha(up: float, attempt: int) -> float:
        seconds = run.pulses(torch.tensor([[up], [0.0]]), attempt, ALL).seconds.sum().item()
        return seconds * per / abs(0.5 * DEVICE.g_max - up)

    assert alpha(0.0, 1) == pytest.approx(1.0, rel=1e-3)
    assert alpha(2e-6, 2) == pytest.approx(1.2, rel=1e-3)
    assert alpha(5e-6, 3) == pytest.approx(0.6, rel=1e-3)


def test_lengths_are_whole_ticks_up_to_the_longest():
    run = begun(torch.linspace(-1.0, 1.0, 101), tick=1.2e-9, longest=60e-9)
    ticks = run.pulses(torch.zeros(4, 101), 1, ALL).seconds.double() / 1.2e-9
    assert (ticks - ticks.round()).abs().max() < 1e-4
    assert ticks.max() == pytest.approx(50.0)


def test_pairs_share_the_iterations():
    weight = torch.tensor([0.9])
    run, read = PulseLengthByRow().begin(site_of(FOUR, weight, iterations=6)), torch.zeros(4, 1)
    run.pulses(None, 0, ALL)
    pulsed = [run.pulses(read, attempt, ALL).seconds[:, 0].gt(0.0).tolist() for attempt in (1, 2, 3, 4)]
    assert pulsed[2] == [True, False, False, False]
    assert pulsed[3] == [False, False, True, False]


def test_a_run_of_some_cells_goes_on_as_the_run_of_all():
    bench, some = Bench(4), torch.arange(CELLS) % 3 == 0
    run, unfinished = obeyed(bench, PulseLengthByRow(), FOUR, 5)
    part, read = run.keep(some), bench.conductance
    assert torch.equal(part.residual(read[:, some]), run.residual(read)[:, some])
    mine, all_of_them = part.pulses(read[:, some], 6, unfinished[:, some]), run.pulses(read, 6, unfinished)
    assert torch.equal(mine.seconds, all_of_them.seconds[:, some])


def test_a_device_that_never_follows_gets_the_longest_pulses():
    weight, strategy = torch.tensor([0.9]), PulseLengthByRow()
    run = strategy.begin(site_of(FOUR, weight, iterations=2000))
    run.pulses(None, 0, ALL)
    lengths = [run.pulses(torch.zeros(4, 1), attempt, ALL).seconds for attempt in range(1, 500)]
    assert torch.stack(lengths).isfinite().all()
    assert lengths[-1].max().item() == pytest.approx(strategy.longest)


def test_pairs_are_ordered_by_significance():
    found = pairs_of(SignificancePairs(device=DEVICE, significances=(1.0, 3.0)))
    assert [(p.up, p.down) for p in found] == [(2, 3), (0, 1)]


def test_refuses_devices_and_cells_that_it_cannot_program():
    with pytest.raises(ValueError, match=r"partial_set = None.*nandakumar_2018_partial_set"):
        PulseLengthByRow().check(DifferentialPair(device=ideal_device()))
    with pytest.raises(ValueError, match=r"g_max = 1.2e-05 S.*1.0\d*e-05 S"):
        PulseLengthByRow().check(DifferentialPair(device=dataclasses.replace(DEVICE, g_max=12e-6)))
    with pytest.raises(ValueError, match=r"ReferencedDevice.*DifferentialPair"):
        PulseLengthByRow().check(ReferencedDevice(device=DEVICE))


@pytest.mark.parametrize("wrong", [{"alpha": 0.0}, {"lower": 1.5}, {"higher": 0.9}, {"tick": -1e-9}])
def test_refuses_wrong_numbers(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PulseLengthByRow(**wrong)


def test_json_round_trip():
    strategy = PulseLengthByRow(alpha=0.25)
    assert from_json(strategy.to_json()) == strategy
