"""Programming by amplitude on chosen devices of a cell, step by step, on a device without noise."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from phasegrad.cells import Cell, SignificancePairs
from phasegrad.configuration import from_json
from phasegrad.devices import AmplitudeResponse, ideal_device
from phasegrad.stores.programming.selection import DeviceSelection
from phasegrad.stores.programming.strategies import Run, Site, Strategy

CURVE = AmplitudeResponse(offset_sd=15e-6, set_sd=0.2, cycle_sd=0.0, set_conductance=15e-6)
DEVICE = dataclasses.replace(ideal_device(g_max=10e-6), amplitude=CURVE)
CELLS = 2000
TOLERANCE = 0.3e-6
ALL = torch.tensor(True)


def cell_of(devices: int) -> SignificancePairs:
    return SignificancePairs(device=DEVICE, significances=(1.0,) * devices)


def site_of(cell: Cell, weight: torch.Tensor) -> Site:
    rows = torch.zeros(len(weight), dtype=torch.int64)
    targets = cell.targets(weight)
    return Site(cell=cell, targets=targets, relative=weight, planes=(0, 1), rows=rows, iterations=30)


class Bench:
    """Devices that obey the pulses of a run exactly."""

    def __init__(self, devices: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.offset, self.strength = (torch.randn(2 * devices, CELLS, generator=generator) for _ in range(2))
        self.conductance = torch.full((2 * devices, CELLS), 5e-6)
        self.weight = 2.0 * torch.rand(CELLS, generator=generator) - 1.0

    def obey(self, pulses) -> None:
        if pulses.fully_set is not None:
            self.conductance = torch.where(pulses.fully_set, CURVE.fully_set(self.strength), self.conductance)
        if pulses.amplitude is not None:
            after = CURVE.conductance(pulses.amplitude, self.offset, self.strength, torch.zeros_like(self.offset))
            self.conductance = torch.where(pulses.amplitude > 0.0, after, self.conductance)


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


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("full", ["read", "nominal"])
def test_weights_come_out_right_where_devices_can_store_them(devices, full):
    bench, cell = Bench(devices), cell_of(devices)
    _, unfinished = obeyed(bench, DeviceSelection(full=full), cell, 30)
    converged = ~unfinished.any(dim=0)
    assert converged.float().mean() > 0.9  # the others are too weak: SET is 15 uS with a spread of 20 %
    per_device = TOLERANCE / DEVICE.g_max
    error = (cell.weight(bench.conductance) - bench.weight)[converged].abs()
    # Each device may be off by the tolerance, and devices at RESET add up to 0.1 uS each.
    assert error.max() <= per_device + 2 * CURVE.reset_conductance / DEVICE.g_max


def test_at_most_one_device_of_a_polarity_is_between_reset_and_set():
    bench = Bench(2)
    obeyed(bench, DeviceSelection(), cell_of(2), 30)
    at_reset = bench.conductance < 2.0 * CURVE.reset_conductance
    at_set = (bench.conductance - CURVE.fully_set(bench.strength)).abs() < 1e-9
    between = ~at_reset & ~at_set
    assert (between[0::2].sum(0) <= 1).all()
    assert (between[1::2].sum(0) <= 1).all()
    assert not ((between[0::2].any(0)) & (between[1::2].any(0))).any()


def test_preparation_resets_all_and_sets_the_wanted_devices():
    bench, cell = Bench(2), cell_of(2)
    run = DeviceSelection().begin(site_of(cell, bench.weight))
    first, second = run.pulses(None, 0, ALL), run.pulses(bench.conductance, 1, ALL)
    assert (first.amplitude == 700e-6).all()
    assert torch.equal(second.fully_set[0], bench.weight > 0.0)
    assert torch.equal(second.fully_set[1], bench.weight < 0.0)


def test_nothing_has_converged_before_the_devices_were_chosen():
    bench, cell = Bench(1), cell_of(1)
    run = DeviceSelection().begin(site_of(cell, bench.weight))
    run.pulses(None, 0, ALL)
    assert torch.equal(run.residual(cell.targets(bench.weight)).isinf().any(0), bench.weight != 0.0)


def test_the_next_pulse_is_stronger_where_the_read_was_too_high():
    cell, weight = cell_of(1), torch.tensor([0.5, 0.5, 0.5])
    run = DeviceSelection(gain=10.0).begin(site_of(cell, weight))
    full = torch.full((2, 3), 15e-6)
    run.pulses(None, 0, ALL)
    run.pulses(full, 1, ALL)
    assert run.pulses(full, 2, ALL).amplitude[0].tolist() == pytest.approx([125e-6 + 10.0 * 10e-6] * 3)
    read = torch.tensor([[6e-6, 5.1e-6, 4e-6], [0.0, 0.0, 0.0]])
    unfinished = run.residual(read).abs() > TOLERANCE
    assert run.pulses(read, 3, unfinished).amplitude[0].tolist() == pytest.approx([235e-6, 0.0, 215e-6])


def test_a_run_of_some_cells_goes_on_as_the_run_of_all():
    bench, some = Bench(2), torch.arange(CELLS) % 3 == 0
    run, unfinished = obeyed(bench, DeviceSelection(), cell_of(2), 3)
    part, read = run.keep(some), bench.conductance
    assert torch.equal(part.residual(read[:, some]), run.residual(read)[:, some])
    mine, all_of_them = part.pulses(read[:, some], 5, unfinished[:, some]), run.pulses(read, 5, unfinished)
    assert torch.equal(mine.amplitude, all_of_them.amplitude[:, some])


def test_refuses_devices_without_a_response_to_the_amplitude():
    cell = SignificancePairs(device=ideal_device(), significances=(1.0, 1.0))
    with pytest.raises(ValueError, match=r"DeviceSelection.*amplitude"):
        DeviceSelection().check(cell)


def test_refuses_a_window_that_its_pulses_do_not_reach():
    cell = SignificancePairs(device=dataclasses.replace(DEVICE, g_max=14e-6), significances=(1.0,))
    with pytest.raises(ValueError, match=r"weakest = 0.000125 A.*g_max = 1.4e-05 S"):
        DeviceSelection().check(cell)
    DeviceSelection(weakest=50e-6).check(cell)


@pytest.mark.parametrize(
    "wrong", [{"full": "set"}, {"gain": 0.0}, {"strongest": 100e-6}, {"length": -1.0}, {"weakest": float("inf")}]
)
def test_refuses_wrong_numbers(wrong):
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        DeviceSelection(**wrong)


def test_json_round_trip():
    strategy = DeviceSelection(full="nominal", gain=7.0)
    assert from_json(strategy.to_json()) == strategy
