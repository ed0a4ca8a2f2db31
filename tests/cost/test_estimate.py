"""Energy, latency and area follow from the constants, by hand; no tile is run; bad input is refused by name."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from tests.cost.technologies import CONSTANTS as C
from tests.cost.technologies import Branch, converted, drive, technology
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.cost import Estimate, Technology, estimate, measure_activity
from phasegrad.crossbar import AbsMaxRange, Adc, BitSerialDac, Dac, FixedRange, RampAdc


def linear(inputs: int = 20, outputs: int = 30, **fields: Any) -> nn.Module:
    torch.manual_seed(0)
    return converted(nn.Sequential(nn.Linear(inputs, outputs, bias=False)), **fields)


def priced(net: nn.Module, x: Tensor, activity: Any = 0.25, **changes: Any) -> Estimate:
    return estimate(net, x, technology=technology(**changes), activity=activity)


def targets(net: nn.Module) -> float:
    """The sum of the target conductances of a net of one tile per column scale."""
    layer = net[0]
    scale = layer.weight.detach().abs().amax(1, keepdim=True)
    return float(layer.hardware.cell.targets(layer.weight.detach() / scale).double().sum())


def test_the_energy_of_each_component_by_hand() -> None:
    net = linear()
    found = priced(net, torch.empty(3, 20))
    energies = found.layers[0].energies
    assert energies["array"] == pytest.approx(3 * 0.2**2 * 100e-9 * targets(net) * 0.25, rel=1e-6)
    assert energies["drivers"] == pytest.approx(3 * 20 * C["driver_energy"])
    assert energies["adc"] == pytest.approx(3 * 30 * C["adc_energy"])
    assert energies["tile"] == pytest.approx(3 * C["tile_energy"])
    assert energies["local"] == pytest.approx(3 * 30 * C["local_energy"])
    assert energies["links"] == pytest.approx(3 * 50 * C["link_energy"])
    assert energies["digital"] == 0.0
    static = (C["tile_power"] + C["chip_power"]) * found.latency
    assert found.energies["static"] == pytest.approx(static)
    assert found.energy == pytest.approx(sum(energies.values()) + static)


def test_the_latency_of_a_vector_by_hand() -> None:
    found = priced(linear(), torch.empty(3, 20))
    stages = found.layers[0].stages
    assert stages.read == pytest.approx(10e-9 + 100e-9 + 20e-9)
    assert stages.local == pytest.approx(30e-9 + 5e-9)
    assert stages.links == pytest.approx(3e-9 + 50 * 1e-10)
    assert found.latency == found.serial_latency == pytest.approx(3 * (130e-9 + 35e-9 + 8e-9))
    assert found.pipelined_latency == pytest.approx(173e-9 + 2 * 130e-9)
    assert found.interval == pytest.approx(3 * 130e-9)


def test_the_area_by_hand() -> None:
    found = priced(linear(100, 30), torch.empty(1, 100))
    tile = 64 * 32 * 2 * 1e-14 + 64 * 1e-12 + 32 * 1e-10 + 1e-9 + 2e-9 + 3e-9
    assert found.area == pytest.approx(2 * tile + 1e-7)


def test_figures_of_merit_follow_from_operations() -> None:
    found = priced(linear(), torch.empty(3, 20))
    assert found.operations == 2 * 3 * 20 * 30
    assert found.tops == pytest.approx(3600 / found.latency / 1e12)
    assert found.tops_per_watt == pytest.approx(3600 / found.energy / 1e12)
    assert found.tops_per_mm2 == pytest.approx(found.tops / (found.area * 1e6))
    assert found.samples_per_second == pytest.approx(3 / found.latency)
    assert found.samples_per_joule == pytest.approx(3 / found.energy)


def test_phases_multiply_the_time_of_reads_and_not_the_energy_of_the_array() -> None:
    net = linear()
    one, four = (priced(net, torch.empty(1, 20), phases=phases).layers[0] for phases in (1, 4))
    assert four.energies["array"] == one.energies["array"]
    assert four.energies["adc"] == pytest.approx(4 * one.energies["adc"])
    assert four.stages.read == pytest.approx(10e-9 + 4 * 100e-9 + 4 * 20e-9)
    assert four.stages.local == one.stages.local


def test_columns_that_share_a_converter_wait_and_save_area() -> None:
    net = linear(adc=RampAdc(columns_per_converter=4))
    found = priced(net, torch.empty(1, 20)).layers[0]
    assert found.stages.read == pytest.approx(110e-9 + 4 * 20e-9)
    assert found.areas["adc"] == pytest.approx(8 * 1e-10)


@pytest.mark.parametrize(("scaling", "factor"), [("bits", 6 / 8), ("codes", 1 / 4), ("thermal", 1 / 16)])
def test_converters_of_other_resolutions_scale(scaling: str, factor: float) -> None:
    found = priced(linear(adc=Adc(bits=6)), torch.empty(1, 20), adc_scaling=scaling).layers[0]
    assert found.energies["adc"] == pytest.approx(30 * C["adc_energy"] * factor)
    assert found.stages.read == pytest.approx(110e-9 + 20e-9 * factor)


def test_partial_sums_are_added_globally_or_along_a_chain() -> None:
    net = linear(150, 30)  # three row tiles
    everywhere = priced(net, torch.empty(1, 150))
    assert everywhere.layers[0].energies["digital"] == pytest.approx(60 * C["digital_energy"])
    assert everywhere.digital_time == pytest.approx(60 * C["digital_time"])
    chained = priced(net, torch.empty(1, 150), partial_sums="local", hop_time=40e-9)
    assert chained.layers[0].energies["digital"] == 0.0
    assert chained.layers[0].stages.local == pytest.approx(everywhere.layers[0].stages.local + 2 * 40e-9)


def test_digital_operators_cost_operations_and_bytes() -> None:
    net = pg.convert(nn.Sequential(nn.Linear(8, 8, bias=False), nn.Sigmoid()), pg.presets.pcm_inference())
    found = priced(net, torch.empty(5, 8))
    assert found.digital[0].energy == pytest.approx(40 * C["digital_energy"] + 320 * C["memory_energy"])
    assert found.digital[0].time == pytest.approx(max(40 * 1e-12, 320 * 1e-12))


def test_an_ageing_chip_saves_the_energy_that_its_conductances_lose() -> None:
    net, x = linear(60, 30), torch.randn(4, 60)
    chip = pg.inference.program(net, seed=0)
    ages, sums, arrays = (1.0, 86_400.0, 3.15e8), [], []
    for age in ages:
        old = pg.inference.age(chip, age)
        layer = old[0]
        state = layer.devices.state
        sums.append(float(layer.hardware.cell.device.drift(state, layer.devices.age).double().sum()))
        found = priced(old, x).layers[0]
        arrays.append(found.energies["array"])
        assert found.conductance.origin == "devices"
        assert found.conductance.total == pytest.approx(sums[-1], rel=1e-6)
    assert arrays[0] > arrays[1] > arrays[2]
    assert arrays[2] / arrays[0] == pytest.approx(sums[2] / sums[0], rel=1e-6)


def test_conductances_of_large_layers_are_summed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    net = linear(60, 50)
    chip = pg.inference.age(pg.inference.program(net, seed=0), 1e4)
    whole = [priced(n, torch.empty(1, 60)).layers[0].conductance.total for n in (net, chip)]
    monkeypatch.setattr("phasegrad.cost.conductance._AT_ONCE", 300)
    parts = [priced(n, torch.empty(1, 60)).layers[0].conductance.total for n in (net, chip)]
    assert parts == pytest.approx(whole, rel=1e-9)


def test_reference_columns_conduct_too() -> None:
    device = pg.presets.pcm_inference().cell.device
    net = linear(10, 40, cell=pg.cells.OffsetSlices(device=device, bits=4, slices=2))
    chip = pg.inference.program(net, seed=0)
    digital, programmed = (priced(n, torch.empty(1, 10)).layers[0].conductance.total for n in (net, chip))
    zero = 2 * 10 * float(device.g_max * 2 / 3)  # the offset 8 has the digits 0 and 2 of 3, in two column tiles
    planes = chip[0].devices.conductance.double().sum() + chip[0].devices.reference.conductance.double().sum()
    assert digital == pytest.approx(float(net[0].hardware.cell.targets(scaled(net)).double().sum()) + zero, rel=1e-6)
    assert programmed == pytest.approx(float(planes), rel=0.02)  # at an age of 0, drift is a few percent at most


def scaled(net: nn.Module) -> Tensor:
    weight = net[0].weight.detach()
    return weight / weight.abs().amax(1, keepdim=True)


def test_a_net_on_the_meta_device_uses_the_average_of_the_technology() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(20, 30))
    found = priced(pg.convert(model, pg.presets.pcm_inference()), torch.empty(1, 20))
    expected = 20 * 30 * 2 * C["mean_conductance"] * 0.2**2 * 100e-9 * 0.25
    assert found.layers[0].energies["array"] == pytest.approx(expected)
    assert "average mean_conductance" in str(found)


def test_activity_is_measured_behind_the_dac() -> None:
    net, x = linear(dac=Dac(range=FixedRange(value=2.0))), torch.tensor([[1.0, -4.0, 0.0, 0.5] * 5])
    found = measure_activity(net, [x])
    assert found.mean_absolute["0"] == pytest.approx((0.5 + 1.0 + 0.0 + 0.25) / 4, abs=2e-3)
    assert found.mean_square["0"] == pytest.approx((0.25 + 1.0 + 0.0 + 0.0625) / 4, abs=2e-3)
    codes = [round(z * 127) for z in (0.5, 1.0, 0.0, 0.25)]
    assert found.mean_bits["0"] == pytest.approx(sum(code.bit_count() for code in codes) / 7 / 4)


def test_each_coding_uses_its_own_mean() -> None:
    net, x = linear(dac=Dac(range=AbsMaxRange())), torch.rand(50, 20)
    activity = measure_activity(net, [x])
    by_duration = priced(net, x, activity).layers[0].energies["array"]
    by_amplitude = priced(net, x, activity, input_coding="amplitude").layers[0].energies["array"]
    assert by_amplitude / by_duration == pytest.approx(activity.mean_square["0"] / activity.mean_absolute["0"])
    serial = linear(dac=BitSerialDac(bits=8, range=AbsMaxRange()))
    activity = measure_activity(serial, [x])
    found = priced(serial, x, activity).layers[0].energies["array"]
    full = 50 * 7 * 0.2**2 * 100e-9 * targets(serial)
    assert found == pytest.approx(full * activity.mean_bits["0"], rel=1e-6)


def test_replicas_share_vectors_and_cost_area() -> None:
    net, x = linear(), torch.empty(10, 20)
    one = priced(net, x)
    three = estimate(net, x, technology=technology(), activity=0.25, replicas=3)
    assert three.latency == pytest.approx(one.latency * 4 / 10)
    assert (three.tiles, three.devices) == (3, 3 * one.devices)
    assert three.layers[0].energy == one.layers[0].energy
    assert three.area - 1e-7 == pytest.approx(3 * (one.area - 1e-7))


def test_replicas_for_shortens_the_interval_with_the_tiles_there_are() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.Flatten(), nn.Linear(4 * 36, 5, bias=False))
    net, x = converted(model), torch.empty(1, 2, 8, 8)
    found = priced(net, x)
    assert found.tiles == 4
    replicas = found.replicas_for(9)
    assert replicas == {"0": 6, "2": 1}
    faster = estimate(net, x, technology=technology(), activity=0.25, replicas=replicas, pipelined=True)
    assert faster.tiles <= 9
    assert faster.interval == pytest.approx(found.interval / 6)
    with pytest.raises(ValueError, match=r"tiles = 9\.5; it must be an integer"):
        found.replicas_for(9.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"tiles = 3, but the net itself has 4 tiles"):
        found.replicas_for(3)


def test_steps_of_a_recurrent_layer_do_not_overlap() -> None:
    found = priced(converted(nn.LSTM(4, 6)), torch.empty(5, 1, 4), activity=0.5)
    hidden = next(layer for layer in found.layers if layer.name == "hh_l0")
    assert hidden.duration.overlapped == pytest.approx(5 * hidden.stages.latency)
    assert hidden.duration.occupied == pytest.approx(5 * hidden.stages.interval)


def test_programming_and_recalibration_by_hand() -> None:
    net = linear(100, 30)
    found = priced(net, torch.empty(1, 100), programmed_together=32)
    assert found.programming.energy == pytest.approx(2 * 100 * 30 * 1e-9)
    assert found.programming.time == pytest.approx(64 * 30 * 2 / 32 * 1e-6)
    total = found.layers[0].conductance.total
    energy = 100 * (1e-14 + 1e-10) + 100 * 30 * (1e-12 + 1e-13) + 0.2**2 * 100e-9 * total
    assert found.recalibration.energy == pytest.approx(energy, rel=1e-6)
    assert found.recalibration.time == pytest.approx(64 * (130e-9 + 35e-9))


def test_no_tile_is_run_and_the_net_is_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    chip = pg.inference.program(converted(model), seed=0).train()
    before, random = {k: v.clone() for k, v in chip.state_dict().items()}, torch.get_rng_state()
    for name in ("product", "tile_outputs"):
        monkeypatch.setattr(f"phasegrad.crossbar.product.{name}", None)
    monkeypatch.setattr("phasegrad.stores.base.product", None)
    priced(chip, torch.empty(1, 2, 8, 8))
    assert torch.equal(random, torch.get_rng_state())
    assert chip.training
    assert all(torch.equal(v, before[k]) for k, v in chip.state_dict().items())


def test_a_missing_constant_is_named_with_its_unit_and_its_users() -> None:
    net = linear()
    partial = estimate(net, torch.empty(1, 20), technology=technology(adc_energy=None, link_time=None), activity=0.5)
    assert partial.area > 0
    with pytest.raises(ValueError, match=r"energy needs constants(.|\n)*adc_energy \[J\]: for 0"):
        _ = partial.energy
    with pytest.raises(ValueError, match=r"latency needs constants(.|\n)*link_time \[s/B\]: for 0"):
        _ = partial.latency
    with pytest.raises(ValueError, match=r"pass technology=, such as(.|\n)*adc_energy \[J\]: for 0"):
        _ = estimate(net, torch.empty(1, 20)).energy


def test_a_constant_of_zero_asks_for_nothing_else() -> None:
    free = Technology(
        **{name: 0.0 for name in C if name.endswith(("energy", "power"))}, read_voltage=0.0
    )  # fmt: skip
    found = estimate(linear(), torch.empty(1, 20), technology=free)
    assert found.energy == 0.0
    assert found.samples_per_joule == found.tops_per_watt == math.inf
    assert "inf" not in str(found)
    assert json.loads(found.to_json())["totals"]["tops_per_watt"] is None


def test_converters_of_another_resolution_need_a_scaling() -> None:
    with pytest.raises(ValueError, match="adc_scaling: for 0, whose converters have 6 bits"):
        _ = priced(linear(adc=Adc(bits=6)), torch.empty(1, 20)).energy


def test_a_branch_on_values_is_named() -> None:
    with pytest.raises(ValueError, match=r"Branch \(technologies.py:\d+\) uses the values.*estimate the modules"):
        estimate(converted(Branch()), torch.empty(1, 4))


def test_an_input_of_another_shape_or_dtype_is_named() -> None:
    net = converted(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(9, 8)))
    with pytest.raises(ValueError, match=r"refuses this example_input at 2 .*last dimension must be in_features = 9"):
        estimate(net, torch.empty(1, 8))
    with pytest.raises(ValueError, match=r"refuses this example_input at 0 .*in_features = 8"):
        estimate(net, torch.empty(1, 7))
    with pytest.raises(ValueError, match=r"input has dtype torch\.int64"):
        estimate(net, torch.ones(1, 8, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"shape \[0, 8\], without samples; pass at least one"):
        estimate(linear(8), torch.empty(0, 8))
    with pytest.raises(TypeError, match="net = 'net'"):
        estimate("net", torch.empty(1, 8))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has no analog layer"):
        estimate(nn.Sequential(nn.Linear(2, 2)), torch.empty(1, 2))


def test_absurd_results_are_refused_by_name() -> None:
    net = linear(adc=Adc(bits=16))
    with pytest.raises(ValueError, match=r"conversion of 16 bits in 0 would take 1e-12 J; thermal noise"):
        priced(net, torch.empty(1, 20), adc_bits=None)
    with pytest.raises(ValueError, match=r"tile of 0 takes .* mostly in tile, above highest_energy = 1e-14"):
        priced(linear(), torch.empty(1, 20), highest_energy=1e-14)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activity": 1.5}, "activity = 1.5"),
        ({"replicas": 0}, "replicas = 0"),
        ({"replicas": {"x": 2}}, "replicas has the name 'x'"),
        ({"pipelined": 1}, "pipelined = 1"),
        ({"technology": {}}, "technology = {}"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        estimate(linear(), torch.empty(1, 20), **options)


def test_measure_activity_refuses_what_it_cannot_measure() -> None:
    with pytest.raises(TypeError, match="inputs"):
        measure_activity(linear(), torch.empty(1, 20))
    with pytest.raises(ValueError, match="no batch"):
        measure_activity(linear(), [])


def test_drives_are_looked_up_by_layer() -> None:
    net = converted(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    with pytest.raises(ValueError, match=r"activity \(an argument\): for the array of 1"):
        _ = priced(net, torch.empty(1, 4), drive(0.5)).energy
    assert not math.isnan(priced(net, torch.empty(1, 4), drive(0.5, ("0", "1"))).energy)
