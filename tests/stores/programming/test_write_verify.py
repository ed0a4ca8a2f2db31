"""The write loop: cells, layers and stores, records, time, files, seeds, and what is refused."""

from __future__ import annotations

import copy
import csv
import dataclasses
import io
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.cells import (
    Cell,
    DifferentialPair,
    DifferentialSlices,
    MultiMemristive,
    OffsetSlices,
    ReferencedDevice,
    SignificancePairs,
)
from phasegrad.devices import CorrelatedNoise, joshi_2020, melt_and_quench, nandakumar_2018_device
from phasegrad.inference import AmplitudeSteps, Rows, SetCounts, Statistical, WriteVerify, program, programming_record

DEVICE = melt_and_quench()
LOOP = WriteVerify(strategy=AmplitudeSteps())
CELLS: dict[str, Cell] = {
    "pair": DifferentialPair(device=DEVICE),
    "significance": SignificancePairs(device=DEVICE, significances=(2.0, 1.0)),
    "single": ReferencedDevice(device=DEVICE),
    "slices": DifferentialSlices(device=DEVICE, bits=5),
    "offset slices": OffsetSlices(device=DEVICE, bits=5),
    "multi-memristive": MultiMemristive(device=DEVICE, pairs=2),
}


def made(cell: Cell, net: nn.Module | None = None, **options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    hardware = pg.Hardware(cell=cell, rows=16, columns=8, **options)
    return pg.convert(net or nn.Sequential(nn.Linear(20, 12)), hardware)


def chip_of(cell: Cell, how: WriteVerify = LOOP, seed: int = 0, net: nn.Module | None = None) -> nn.Sequential:
    return program(made(cell, net), seed=seed, how=how)


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_is_programmed_within_the_noise_of_its_verify_reads(name: str) -> None:
    chip, cell = chip_of(CELLS[name]), CELLS[name]
    record = programming_record(chip)["0"]
    assert record.converged_fraction > 0.99
    error = (chip[0].devices.conductance - record.target)[record.converged & (record.target > 1e-7)].double()
    # The tolerance, a step of the read, and five standard deviations of the read noise at g_max.
    noise = 0.0088 * 25e-6 * math.sqrt(math.log(20.0 / 1e-5))
    assert float(error.abs().max()) < 0.25e-6 + 0.12e-6 + 5.0 * noise
    assert float(error.square().mean().sqrt()) < noise
    assert record.pulses.shape == (len(cell.factors), 12, 20)


@pytest.mark.parametrize(
    "net",
    [nn.Conv2d(3, 4, 3), nn.Conv1d(4, 8, 3, groups=2), nn.ConvTranspose2d(2, 3, 2), nn.LSTM(5, 6)],
    ids=lambda m: type(m).__name__,
)
def test_every_layer_is_programmed(net: nn.Module) -> None:
    hardware = pg.Hardware(cell=CELLS["pair"], rows=16, columns=8)
    chip = program(pg.convert(nn.Sequential(net), hardware), seed=0, how=LOOP)
    for record in programming_record(chip).values():
        assert record.converged_fraction > 0.95


def test_tied_layers_share_their_devices_and_their_record() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
            self.b.weight = self.a.weight

    records = programming_record(program(pg.convert(Tied(), pg.Hardware(cell=CELLS["pair"])), seed=0, how=LOOP))
    assert records["a"] is records["b"]


def test_seeds_make_the_chip() -> None:
    one, same, other = (chip_of(CELLS["pair"], seed=s)[0].devices.conductance for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_statistical_chip_is_what_it_was_to_the_bit() -> None:
    net = made(CELLS["pair"])
    plain, named = program(net, seed=3), program(net, seed=3, how=Statistical())
    assert torch.equal(plain[0].devices.conductance, named[0].devices.conductance)
    with pytest.raises(ValueError, match=r"0 has no record, because it was programmed statistically.*WriteVerify"):
        programming_record(plain)


@pytest.mark.parametrize("way", ["state_dict", "deepcopy", "pickle"])
def test_a_chip_survives_being_copied(way: str) -> None:
    slow = dataclasses.replace(LOOP, read_time=1e-2)  # the process takes minutes, so devices keep their own ages
    chip = chip_of(CELLS["pair"], slow)
    assert chip[0].devices.written_at is not None
    if way == "state_dict":
        other = program(made(CELLS["pair"]), seed=9)
        other.load_state_dict(chip.state_dict())
    else:
        other = copy.deepcopy(chip) if way == "deepcopy" else pickle.loads(pickle.dumps(chip))
    for ours, theirs in zip(chip.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    x = torch.randn(3, 20)
    a, b = (pg.inference.age(c, 1e5) for c in (chip, other))
    assert torch.equal(a[0].devices.logical_weight(), b[0].devices.logical_weight())
    torch.manual_seed(1)
    first = a(x)
    torch.manual_seed(1)
    assert torch.equal(first, b(x))


def test_statistical_state_replaces_that_of_a_loop() -> None:
    chip = chip_of(CELLS["pair"], dataclasses.replace(LOOP, read_time=1e-2))
    plain = program(made(CELLS["pair"]), seed=0)
    chip.load_state_dict(plain.state_dict())
    assert chip[0].devices.written_at is None
    assert chip[0].devices.fixed_normals is None


def test_devices_drift_while_their_neighbours_are_written() -> None:
    still = chip_of(CELLS["pair"])[0].devices
    slow = chip_of(CELLS["pair"], dataclasses.replace(LOOP, read_time=1e-2))[0].devices
    assert still.written_at is None
    span = programming_record(chip_of(CELLS["pair"], dataclasses.replace(LOOP, read_time=1e-2)))["0"].time.max()
    age = -slow.written_at
    assert float(age.min()) >= 0.0
    assert float(age.max()) <= float(span)
    expected = slow.conductance.double() * ((age + 20.0) / 20.0) ** -slow.nu.double()
    assert torch.allclose(slow.present(slow.clock).double(), expected, rtol=1e-5)


def test_time_and_energy_follow_from_the_pulses() -> None:
    how = dataclasses.replace(LOOP, schedule=Rows(heads=4), iterations=3, keep_pulses=True)
    record = programming_record(chip_of(CELLS["pair"], how))["0"]
    assert record.time.shape == record.energy.shape == record.reads.shape == (2, 2)
    # The first tile: 16 x 8 pairs; the RESET, then what was kept, 4 at a time.
    inside = torch.zeros(12, 20, dtype=torch.bool)
    inside[:8, :16] = True
    time = energy = 0.0
    for number, one in enumerate(record.rounds):
        values = one.values[:, inside.flatten()[one.cells]]
        duration = 50e-9 if number == 0 else 1e-6
        time += -(-int((values > 0.0).sum()) // 4) * duration
        energy += 3.0 * duration * float(values.double().sum())
    time += 1e-6 * int(record.reads[0, 0])  # one reader
    assert float(record.time[0, 0]) == pytest.approx(time, rel=1e-6)
    reads = float(record.energy[0, 0]) - energy
    assert 0.0 < reads < 0.09 * 25e-6 * 1e-6 * int(record.reads[0, 0])


def test_the_export_lists_every_pulse(tmp_path: Path) -> None:
    record = programming_record(chip_of(CELLS["pair"], dataclasses.replace(LOOP, keep_pulses=True)))["0"]
    record.to_csv(tmp_path / "pulses.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "pulses.csv").read_text())))
    assert len(rows) == 2 * 12 * 20
    for row in rows[::37]:
        place = (int(row["device"]), int(row["column"]), int(row["row"]))
        assert int(row["pulses"]) == int(record.pulses[place]) == len(row["pulse_list"].split())
        assert row["polarity"] == "+-"[place[0]]
        assert row["pulse_list"].startswith("current_A:0.00045")
    assert "failed" in str(record)


def test_the_export_names_the_physical_columns_of_swapped_outputs(tmp_path: Path) -> None:
    net = made(CELLS["pair"])  # 20 x 12 on 2 x 2 tiles
    stuck = pg.inference.draw_faults(net, pg.devices.Faults(stuck_at_set=0.1), seed=3)
    how = dataclasses.replace(LOOP, keep_pulses=True)
    chip = program(net, seed=0, how=how, faults=stuck, map_around=("columns",))
    order, held = chip[0].devices.column_order, stuck["0"].stuck
    assert not torch.equal(order, torch.arange(12).repeat(2, 1))
    for record in (programming_record(chip)["0"], programming_record(copy.deepcopy(chip))["0"]):
        record.to_csv(tmp_path / "pulses.csv")
        rows = list(csv.DictReader(io.StringIO((tmp_path / "pulses.csv").read_text())))
        places = {(int(row["device"]), int(row["column"]), int(row["row"])): row for row in rows}
        assert len(places) == len(rows) == 2 * 12 * 20
        for (device, column, row), line in places.items():
            output, target = int(line["output"]), float(line["target_S"])
            assert column == int(order[row // 16, output])
            assert target == pytest.approx(float(record.target[device, output, row]), rel=1e-5)
            if not held[device, column, row].isnan() and target > 0.0:  # the map is that of the physical array
                found = target + float(line["residual_S"])
                assert found == pytest.approx(float(held[device, column, row]), rel=0.2)  # read noise


def test_devices_that_cannot_reach_their_targets_are_marked() -> None:
    strategy = AmplitudeSteps(currents=(250e-6, 400e-6), start=(250e-6, 300e-6))
    record = programming_record(chip_of(CELLS["pair"], WriteVerify(strategy=strategy)))["0"]
    far = record.target > 20e-6
    assert bool(far.any())
    assert not bool(record.converged[far].any())
    assert record.converged_fraction < 0.9
    assert record.iterations == 55


def test_stuck_devices_stay_stuck_and_count_as_failed() -> None:
    net, stuck = made(CELLS["pair"]), torch.full((2, 12, 20), math.nan)
    stuck[0, 3, 4] = 20e-6
    chip = program(net, seed=0, how=LOOP, faults={"0": pg.devices.FaultMap(stuck=stuck)})
    assert float(chip[0].devices.conductance[0, 3, 4]) == pytest.approx(20e-6)
    target = float(programming_record(chip)["0"].target[0, 3, 4])
    assert bool(programming_record(chip)["0"].converged[0, 3, 4]) == (abs(target - 20e-6) < 1e-6)


def test_correlated_noise_starts_where_statistical_programming_starts_it() -> None:
    device = dataclasses.replace(DEVICE, correlated_noise=CorrelatedNoise())
    chip = chip_of(DifferentialPair(device=device))
    deviation = chip[0].devices.noise[0]
    assert float(deviation.abs().max()) > 0.0
    assert float(pg.inference.age(chip, 1e6)[0].devices.noise[0].abs().max()) > 0.0


def test_counted_pulses_program_devices_with_a_step_law() -> None:
    device = nandakumar_2018_device()
    how = WriteVerify(strategy=SetCounts(), tolerance=0.5e-6, iterations=60, bits=None)
    record = programming_record(program(made(DifferentialPair(device=device)), seed=0, how=how))["0"]
    reachable = record.target < 8e-6
    assert float(record.converged[reachable].double().mean()) > 0.9


@pytest.mark.parametrize(
    ("cell", "how", "error", "text"),
    [
        (
            DifferentialPair(device=joshi_2020()),
            LOOP,
            ValueError,
            "0: AmplitudeSteps.*amplitude = None.*melt_and_quench",
        ),
        (CELLS["pair"], WriteVerify(strategy=SetCounts()), ValueError, "0: SetCounts.*steps = None.*nandakumar"),
        (CELLS["pair"], dataclasses.replace(LOOP, full_scale=20e-6), ValueError, "full_scale = 2e-05 S.*g_max"),
        (CELLS["pair"], AmplitudeSteps(), TypeError, "how = .*it must be a way to program devices.*WriteVerify"),
        (CELLS["pair"], "amplitude", TypeError, "how = 'amplitude'"),
    ],
)
def test_what_devices_cannot_follow_is_refused_before_anything_is_written(
    cell: Cell, how: Any, error: type[Exception], text: str
) -> None:
    net = made(cell)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(error, match=text):
        program(net, seed=0, how=how)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net[0].devices is None


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"iterations": 0}, "iterations"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"reads": 0}, "reads"),
        ({"bits": 0}, "bits"),
        ({"strategy": SetCounts}, "strategy"),
        ({"schedule": None}, "schedule"),
    ],
)
def test_a_loop_that_makes_no_sense_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"WriteVerify: {text}"):
        dataclasses.replace(LOOP, **fields)


def test_a_weight_of_another_dtype_is_programmed_in_float32() -> None:
    net = made(CELLS["pair"]).to(torch.float64)
    chip = program(net, seed=0, how=LOOP)
    assert chip[0].devices.conductance.dtype == torch.float32
    assert isinstance(chip[0].weight, Tensor)
