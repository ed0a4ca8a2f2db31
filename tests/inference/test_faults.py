"""Chips with faults: drawn, given, mapped around, counted, and in files."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable
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
from phasegrad.crossbar import Hardware, Wires
from phasegrad.devices import FaultMap, Faults, ideal_device, joshi_2020, melt_and_quench
from phasegrad.stores import weight_reads

FAULTS = Faults(stuck_at_reset=0.02, stuck_at_set=0.02, stuck_at_random=0.02, dead_columns=0.02)
IDEAL = ideal_device(g_max=20e-6)
PCM = Hardware(cell=DifferentialPair(device=joshi_2020()), rows=16, columns=8)
CELLS: dict[str, Callable[[Any], Cell]] = {
    "pair": lambda d: DifferentialPair(device=d),
    "significance pairs": lambda d: SignificancePairs(device=d, significances=(3.0, 1.0)),
    "multi-memristive": lambda d: MultiMemristive(device=d, pairs=2),
    "differential slices": lambda d: DifferentialSlices(device=d, bits=9, slices=2),
    "offset slices": lambda d: OffsetSlices(device=d, bits=8, slices=2),
    "single": lambda d: ReferencedDevice(device=d),
}
PAIRS = ["pair", "significance pairs", "multi-memristive", "differential slices"]


def net(hardware: Hardware = PCM) -> nn.Module:
    torch.manual_seed(0)
    return pg.convert(nn.Sequential(nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 4)), hardware)


def ideal(name: str) -> Hardware:
    return Hardware(cell=CELLS[name](IDEAL), rows=16, columns=8)


def error(chip: nn.Module, original: nn.Module) -> float:
    """Mean squared difference of the weights of the first layer."""
    return float((chip[0].weight - original[0].weight).detach().square().mean())  # type: ignore[index]


def test_faults_are_a_function_of_the_seed_alone() -> None:
    original = net()
    chip = pg.inference.program(original, seed=3, faults=FAULTS)
    drawn = pg.inference.draw_faults(original, FAULTS, seed=3)
    found = pg.inference.fault_maps(chip)
    other = copy.deepcopy(original)
    with torch.no_grad():
        other[0].weight.neg_()  # type: ignore[index]
    again = pg.inference.fault_maps(pg.inference.program(other, seed=3, faults=FAULTS))
    in_hardware = net(dataclasses.replace(PCM, faults=FAULTS))
    from_hardware = pg.inference.fault_maps(pg.inference.program(in_hardware, seed=3))
    for name, one in found.items():
        assert one.count > 0
        for maps in (drawn, again, from_hardware):
            assert torch.equal(one.stuck.nan_to_num(-1.0), maps[name].stuck.nan_to_num(-1.0))
    assert pg.inference.fault_maps(pg.inference.program(original, seed=4, faults=FAULTS))["0"].count > 0
    fourth = pg.inference.draw_faults(original, FAULTS, seed=4)["0"].stuck
    assert not torch.equal(fourth.nan_to_num(-1.0), found["0"].stuck.nan_to_num(-1.0))


def test_devices_that_respond_are_those_of_a_chip_without_faults() -> None:
    original = net()
    healthy = pg.inference.program(original, seed=3)
    faulty = pg.inference.program(original, seed=3, faults=FAULTS)
    none = pg.inference.program(original, seed=3, faults=Faults())
    responds = faulty[0].devices.stuck.isnan()  # type: ignore[index]
    for name in ("conductance", "nu"):
        a, b, c = (getattr(chip[0].devices, name) for chip in (healthy, faulty, none))  # type: ignore[index]
        assert torch.equal(a[responds], b[responds])
        assert torch.equal(a, c)
    assert not faulty[0].devices.nu[~responds].any()  # type: ignore[index]


@pytest.mark.parametrize("name", CELLS)
def test_dead_rows_contribute_nothing(name: str) -> None:
    """In every cell, a word line that drives no device adds 0, also where a reference is subtracted."""
    chip = pg.inference.program(net(ideal(name)), seed=1, faults=Faults(dead_rows=0.3))
    dead = pg.inference.draw_faults(net(ideal(name)), Faults(dead_rows=0.3), seed=1)["0"].stuck
    dead = (~dead.isnan()).all(0)
    assert 0 < int(dead.sum()) < dead.numel()
    matrix = chip[0].store.mean_matrix().weight  # type: ignore[index]
    matrix = matrix if matrix.dim() == 2 else weight_reads.combined(chip[0].devices, matrix)  # type: ignore[index]
    assert float(matrix[dead].abs().max()) < 1e-6


@pytest.mark.parametrize("name", PAIRS)
def test_the_other_device_takes_up_what_a_stuck_one_lacks(name: str) -> None:
    """A pair with G+ stuck at s reaches every weight up to s; the exact error follows from the window."""
    original, stuck = net(ideal(name)), Faults(stuck_at_random=0.05)
    plain, around = (pg.inference.program(original, seed=5, faults=stuck, map_around=ways) for ways in ((), ("pair",)))
    assert error(around, original) < 0.5 * error(plain, original)
    if name != "pair":
        return
    layer = around[0]  # type: ignore[index]
    faults, devices = pg.inference.fault_maps(around)["0"].stuck / IDEAL.g_max, layer.devices
    scale = devices.scale.repeat_interleave(16, 0)[:40].t()
    wanted = original[0].weight / scale  # type: ignore[index]
    low = torch.where(faults[0].isnan(), 0.0, faults[0]) - torch.where(faults[1].isnan(), 1.0, faults[1])
    high = torch.where(faults[0].isnan(), 1.0, faults[0]) - torch.where(faults[1].isnan(), 0.0, faults[1])
    expected = torch.minimum(torch.maximum(wanted, low), high) * scale
    assert torch.allclose(layer.weight, expected, atol=1e-6)


@pytest.mark.parametrize("name", CELLS)
def test_swapped_columns_lower_the_error(name: str) -> None:
    original = net(ideal(name))
    plain, around = (
        pg.inference.program(original, seed=6, faults=Faults(stuck_at_set=0.03), map_around=ways)
        for ways in ((), ("columns",))
    )
    assert error(around, original) < 0.9 * error(plain, original)
    for key, one in pg.inference.fault_maps(plain).items():  # the map is the physical one, whatever was swapped
        for a, b in zip(one.arrays.values(), pg.inference.fault_maps(around)[key].arrays.values(), strict=True):
            assert (a is None) == (b is None)
            assert a is None or b is None or torch.equal(a.nan_to_num(-1.0), b.nan_to_num(-1.0))
    order = around[0].devices.column_order  # type: ignore[index]
    assert torch.equal(order.sort(1).values, torch.arange(20).expand(3, -1))
    assert bool((order // 8 == torch.arange(20) // 8).all())  # within a tile
    assert not torch.equal(order, torch.arange(20).expand(3, -1))
    x = torch.randn(5, 40)
    exact = pg.inference.noiseless(around)[0](x) - around[0].bias  # type: ignore[index]
    if around[0].devices.cell.slice_factors is None:  # type: ignore[index]
        assert torch.allclose(exact, x @ around[0].weight.t(), atol=1e-4)  # type: ignore[index]


def test_columns_are_swapped_almost_as_well_as_possible() -> None:
    """Six columns: the cost is at most 1.5 times that of the best of all 720 orders, and that of no swap."""
    from phasegrad.stores.stuck_devices import _assigned

    generator, ratios = torch.Generator().manual_seed(0), []
    own = torch.arange(6)
    for _ in range(20):
        cost = torch.rand(6, 6, generator=generator, dtype=torch.float64) * (torch.rand(6, generator=generator) < 0.7)
        best = min(float(cost[own, list(order)].sum()) for order in itertools.permutations(range(6)))
        found = _assigned(cost)
        assert sorted(found.tolist()) == list(range(6))
        assert float(cost[own, found].sum()) <= float(cost.diagonal().sum())
        ratios.append((float(cost[own, found].sum()) + 0.1) / (best + 0.1))
    assert sum(ratios) / len(ratios) < 1.5


def test_both_ways_help_together() -> None:
    original = net()
    faults = Faults(stuck_at_set=0.03)
    errors = {
        ways: error(pg.inference.program(original, seed=2, faults=faults, map_around=ways), original)
        for ways in ((), ("pair",), ("columns",), ("pair", "columns"))
    }
    assert errors["pair", "columns"] <= min(errors["pair",], errors["columns",]) * 1.05
    assert max(errors["pair",], errors["columns",]) < errors[()]


def test_tied_layers_share_their_faults() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    tied = pg.convert(model, PCM)
    maps = pg.inference.draw_faults(tied, Faults(stuck_at_set=0.2), seed=0)
    assert list(maps) == ["0"]
    for name in "01":
        chip = pg.inference.program(tied, seed=0, faults={name: maps["0"]})
        assert chip[0].devices is chip[1].devices
        assert pg.inference.faults(chip).stuck == maps["0"].count
    with pytest.raises(ValueError, match="share a weight and its devices"):
        pg.inference.program(tied, seed=0, faults={"0": maps["0"], "1": maps["0"]})
    assert pg.inference.program(in_hardware(tied), seed=0, map_around=("pair",))[0].devices.stuck is not None


def in_hardware(tied: nn.Module) -> nn.Module:
    return pg.convert(pg.to_digital(tied), dataclasses.replace(PCM, faults=FAULTS))


@pytest.mark.parametrize("model", [nn.LSTM(6, 5), nn.MultiheadAttention(8, 2), nn.Conv2d(4, 6, 3, groups=2)])
def test_composites_and_convolutions(model: nn.Module) -> None:
    converted = pg.convert(model, PCM)
    maps = pg.inference.draw_faults(converted, FAULTS, seed=0)
    assert maps.keys() == pg.nn.analog_layers(converted).keys()
    chip = pg.inference.program(converted, seed=0, faults=maps, map_around=("pair", "columns"))
    assert pg.inference.faults(chip).stuck == sum(m.count for m in maps.values())


def wrong_maps() -> list[tuple[dict[str, Any], type[Exception], str]]:
    nan = torch.full((2, 20, 40), torch.nan)
    high, negative = (torch.where(torch.arange(40) == 3, value, nan) for value in (1.0, -1e-6))
    return [
        ({"faults": {"nope": FaultMap(nan)}}, ValueError, "faults has 'nope'; the layers are '0', '2'"),
        ({"faults": {"0": FaultMap(nan[:, :3])}}, ValueError, r"shape \[2, 3, 40\]; the layer has devices"),
        ({"faults": {"0": FaultMap(high)}}, ValueError, "must be in"),
        ({"faults": {"0": FaultMap(negative)}}, ValueError, "must be in"),
        ({"faults": {"0": FaultMap(nan.nan_to_num(torch.inf))}}, ValueError, "must be in"),
        ({"faults": {"0": FaultMap(nan.long())}}, TypeError, "floating-point tensor"),
        ({"faults": {"0": FaultMap(nan, fast=nan)}}, ValueError, "no such devices"),
        ({"faults": {"0": nan}}, TypeError, "must be a FaultMap"),
        ({"faults": 0.1}, TypeError, "must be Faults"),
        ({"faults": FAULTS, "map_around": "pair"}, TypeError, "tuple of"),
        ({"faults": FAULTS, "map_around": ("rows",)}, ValueError, "tuple of"),
        ({"map_around": ("pair",)}, ValueError, "no faults of 0 are known"),
    ]


@pytest.mark.parametrize(("arguments", "kind", "message"), wrong_maps(), ids=lambda v: v if isinstance(v, str) else "")
def test_wrong_faults_are_refused_and_nothing_is_changed(
    arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    original = net()
    before = copy.deepcopy(original.state_dict())
    with pytest.raises(kind, match=message):
        pg.inference.program(original, seed=0, **arguments)
    assert all(torch.equal(value, before[key]) for key, value in original.state_dict().items())
    assert all(layer.devices is None for layer in pg.nn.analog_layers(original).values())


@pytest.mark.parametrize(
    ("hardware", "way", "message"),
    [
        (ideal("single"), "pair", "has one device"),
        (dataclasses.replace(PCM, wires=Wires(word_line=1.0, bit_line=1.0)), "columns", "have resistance"),
    ],
)
def test_impossible_ways_around_faults_are_refused(hardware: Hardware, way: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pg.inference.program(net(hardware), seed=0, faults=FAULTS, map_around=(way,))


def test_report_and_summary_count_stuck_devices() -> None:
    maps = pg.inference.draw_faults(net(), Faults(), seed=0)
    maps["0"].stuck[0, 1, 2], maps["0"].stuck[1, 1, 2], maps["0"].stuck[0, 3, 4] = 0.0, 25e-6, 1e-6
    chip = pg.inference.program(net(), seed=0, faults=maps)
    report = pg.inference.faults(chip)
    first = report.layers[0]
    assert (first.devices, first.stuck, first.at_reset, first.at_set) == (1600, 3, 1, 1)
    assert first.weights == 2 / 800
    assert (report.stuck, report.working) == (3, 1.0 - 3 / report.devices)
    assert "0.188%" in str(report)
    assert "stuck" in str(pg.summary(chip))
    assert "stuck" not in str(pg.summary(pg.inference.program(net(), seed=0)))


def test_maps_survive_a_file(tmp_path: Path) -> None:
    hardware = ideal("offset slices")
    maps = pg.inference.draw_faults(net(hardware), FAULTS, seed=0)
    path = tmp_path / "faults.csv"
    pg.inference.save_fault_maps(maps, path)
    for name, one in pg.inference.load_fault_maps(path, net(hardware)).items():
        for a, b in zip(one.arrays.values(), maps[name].arrays.values(), strict=True):
            assert (a is None) == (b is None)
            assert a is None or b is None or torch.equal(a.nan_to_num(-1.0), b.nan_to_num(-1.0))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("nope,stuck,0,0,0,0.0", "line 2.*the layers are"),
        ("0,stuck,0,20,0,0.0", "line 2.*no such device"),
        ("0,fast,0,0,0,0.0", "line 2.*no such device"),
        ("0,stuck,0,0,-1,0.0", "line 2.*no such device"),
        ("0,stuck,0,0,0,high", "line 2.*could not convert"),
        ("0,stuck,0,0", "line 2"),
    ],
)
def test_wrong_files_are_refused(row: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "faults.csv"
    path.write_text(f"layer,array,device,column,row,conductance_s\n{row}\n")
    with pytest.raises(ValueError, match=message):
        pg.inference.load_fault_maps(path, net())
    path.write_text("layer,row\n")
    with pytest.raises(ValueError, match=r"conductance_s is missing"):
        pg.inference.load_fault_maps(path, net())


def trained_weight(**options: Any) -> Tensor:
    torch.manual_seed(0)
    model = nn.Linear(40, 20)
    torch.manual_seed(1)
    return pg.convert(model, pg.presets.soft_bounds_training(), **options).weight.detach()


def test_convert_programs_known_faults() -> None:
    torch.manual_seed(0)
    model = nn.Linear(40, 20)
    hardware = pg.presets.pcm_pair_training()
    maps = pg.inference.draw_faults(pg.convert(model, hardware), Faults(stuck_at_random=0.1), seed=0)
    errors = []
    for ways in ((), ("pair",), ("pair", "columns")):
        torch.manual_seed(1)
        trained = pg.convert(model, hardware, faults=maps, map_around=ways)
        found = pg.inference.fault_maps(trained)[""]
        assert torch.equal(found.stuck.nan_to_num(-1.0), maps[""].stuck.nan_to_num(-1.0))
        errors.append(float((trained.weight - model.weight).detach().square().mean()))
    assert errors[1] < 0.5 * errors[0]
    assert errors[2] < 1.05 * errors[1]
    with pytest.raises(ValueError, match=r"pass them to pg.inference.program"):
        pg.convert(model, PCM, faults=FAULTS)
    with pytest.raises(ValueError, match="faults has 'x'"):
        pg.convert(model, hardware, faults={"x": maps[""]})


def test_convert_without_faults_is_unchanged() -> None:
    assert torch.equal(trained_weight(), trained_weight(faults=None, map_around=()))


@pytest.mark.parametrize(
    "how",
    [
        pg.inference.WriteVerify(strategy=pg.inference.AmplitudeSteps(), iterations=8),
        pg.inference.WriteVerify(strategy=pg.inference.DeviceSelection(), iterations=8),
        pg.inference.GradientDescent(iterations=3),
    ],
    ids=["amplitude steps", "device selection", "gradient descent"],
)
def test_loops_and_ageing_leave_stuck_devices(how: pg.inference.ProgrammingMethod) -> None:
    faults = Faults(stuck_at_random=0.2, dead_rows=0.1)
    original = net(Hardware(cell=DifferentialPair(device=melt_and_quench()), rows=16, columns=8))
    drawn, errors = pg.inference.draw_faults(original, faults, seed=0)["0"].stuck, []
    for ways in ((), ("pair",)):
        chip = pg.inference.program(original, seed=0, how=how, faults=faults, map_around=ways)
        old = pg.inference.age(chip, seconds=1e5)
        found = pg.inference.fault_maps(old)["0"].stuck
        assert torch.equal(found.nan_to_num(-1.0), drawn.nan_to_num(-1.0))
        devices = old[0].devices  # type: ignore[index]
        held = ~devices.stuck.isnan()
        assert torch.equal(devices.present(devices.clock)[held], devices.stuck[held])
        errors.append(error(chip, original))
    assert errors[1] < errors[0]
