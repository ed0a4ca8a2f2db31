"""Weight stores, and the conversion of a weight from one store to another."""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle

import pytest
import torch
from torch import nn

import phasegrad as pg
from phasegrad.cells import DifferentialPair, DifferentialSlices, OffsetSlices, ReferencedDevice, SignificancePairs
from phasegrad.crossbar import Wires
from phasegrad.devices import ConstantSteps, ideal_device, joshi_2020
from phasegrad.stores import AnalogWeight, Digital, InMemory, Noiseless, Programmed, WeightStore

BASE = pg.presets.pcm_inference()
CELLS = {
    "pair": DifferentialPair(device=joshi_2020()),
    "significance": SignificancePairs(device=joshi_2020(), significances=(2.0, 1.0)),
    "referenced": ReferencedDevice(device=joshi_2020()),
    "slices": DifferentialSlices(device=joshi_2020(), bits=5, slices=2),
    "offset slices": OffsetSlices(device=joshi_2020(), bits=4, slices=2),
}


def layer_on(hardware: pg.Hardware) -> pg.nn.AnalogLinear:
    torch.manual_seed(0)
    return pg.nn.AnalogLinear(20, 12, hardware=hardware)


def in_store(store: type[WeightStore], hardware: pg.Hardware = BASE) -> pg.nn.AnalogLinear:
    if store is InMemory:
        return layer_on(pg.presets.soft_bounds_training())
    layer = layer_on(hardware)
    if store is Digital:
        return layer
    chip = pg.inference.program(layer, seed=0)
    return chip if store is Programmed else pg.inference.noiseless(chip)


STORES = [Digital, Programmed, InMemory, Noiseless]


@pytest.mark.parametrize("store", STORES)
def test_repr_and_summary_name_the_store(store: type[WeightStore]) -> None:
    layer = in_store(store)
    assert type(layer.store) is store
    assert f"weight={store.name}" in repr(layer)
    assert pg.summary(layer).layers[0].store == store.name


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "save"])
def test_copies_keep_the_store(store: type[WeightStore], how: str) -> None:
    layer = in_store(store)
    if how == "deepcopy":
        copied = copy.deepcopy(layer)
    elif how == "pickle":
        copied = pickle.loads(pickle.dumps(layer))
    else:
        buffer = io.BytesIO()
        torch.save(layer, buffer)
        buffer.seek(0)
        copied = torch.load(buffer, weights_only=False)
    assert type(copied.store) is store
    mine, theirs = layer.store.mean_matrix(), copied.store.mean_matrix()
    assert torch.equal(mine.weight, theirs.weight)
    assert mine.weight.data_ptr() != theirs.weight.data_ptr()


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("cell", CELLS)
def test_the_mean_matrix_is_the_mean_of_reads(store: type[WeightStore], cell: str) -> None:
    """Read noise only: the mean of n reads lies within 5 standard errors of the mean matrix."""
    hardware = dataclasses.replace(BASE, cell=CELLS[cell], rows=8, columns=5, read_noise=0.0)
    layer = in_store(store, hardware).eval()
    n = 400
    reads = torch.stack([layer.store.matrix(torch.tensor([i])).weight.detach() for i in range(n)]).double()
    mean = layer.store.mean_matrix().weight.detach().double()
    sd = reads.std(0)
    # Reads are clipped at 0, which raises the mean of devices near 0 by up to 0.4 sd.
    bias = 0.45 * sd * (1.0 if store is Programmed else 0.0)
    assert ((reads.mean(0) - mean).abs() <= bias + 5.0 * sd / n**0.5 + 1e-6).all()


@pytest.mark.parametrize("store", STORES)
def test_conversion_to_digital_restores_a_plain_parameter(store: type[WeightStore]) -> None:
    layer = in_store(store)
    digital = layer.to_digital()
    assert type(digital) is nn.Linear
    assert type(digital.weight) is nn.Parameter
    assert digital.weight.requires_grad
    torch.testing.assert_close(digital.weight.detach(), layer.weight.detach())


@pytest.mark.parametrize("clip_per", ["layer", "channel"])
@pytest.mark.parametrize("rows", [7, 512])
def test_clipped_weights_use_the_whole_conductance_range(clip_per: str, rows: int) -> None:
    """The scale of a column is computed from the clipped weights, so its largest conductance is g_max."""
    hardware = pg.presets.ideal_inference(rows=rows)
    layer = pg.nn.AnalogLinear(200, 30, hardware=hardware)
    with torch.no_grad():
        layer.weight.copy_(torch.distributions.StudentT(3.0).sample((30, 200)))  # heavy tails: clipping matters
    pg.hwa.Recipe(clip_sigma=1.0, clip_per=clip_per).apply(layer)
    clipped = layer.store.mean_matrix().weight
    assert (clipped.abs().amax(1) < layer.weight.abs().amax(1)).all()
    chip = pg.inference.program(layer, seed=0)
    largest = torch.stack([g.amax((0, 2)) for g in chip.devices.conductance.split(rows, dim=2)])
    g_max = hardware.cell.device.g_max
    torch.testing.assert_close(largest, torch.full_like(largest, g_max), rtol=1e-5, atol=0.0)
    torch.testing.assert_close(chip.weight.detach(), clipped, rtol=1e-5, atol=1e-6)


def test_ageing_computes_conductances_only_for_wires(monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy in ``weight`` is read from the cells in one pass; only the solution of the wires needs conductances."""
    counts = {}
    for name, wires in (("ideal", None), ("wires", Wires(word_line=1.0, bit_line=1.0))):
        chip = pg.inference.program(layer_on(dataclasses.replace(BASE, wires=wires)), seed=0)
        calls, present = [], AnalogWeight.present
        monkeypatch.setattr(AnalogWeight, "present", lambda s, now, f=present, k=calls: (k.append(1), f(s, now))[1])
        pg.inference.age(chip, seconds=10.0)
        counts[name] = len(calls)
        monkeypatch.undo()
    assert counts == {"ideal": 0, "wires": 1}


@pytest.mark.parametrize("store", [Programmed, InMemory, Noiseless])
def test_a_recipe_is_for_digital_weights(store: type[WeightStore]) -> None:
    words = {Programmed: "programmed, so", InMemory: r"trained in the memory.*recipe=None", Noiseless: "noiseless, so"}
    with pytest.raises(ValueError, match=rf"calibrate: the net is {words[store]}"):
        pg.hwa.calibrate(in_store(store), [torch.randn(4, 20)])


def test_hardware_with_pulses_stores_weights_in_memory() -> None:
    device = ideal_device(steps=ConstantSteps(size=1e-8))
    hardware = pg.Hardware(cell=ReferencedDevice(device=device), scale=0.5, pulses=pg.crossbar.Pulses())
    layer = pg.nn.AnalogLinear(4, 3, hardware=hardware)
    assert type(layer.store) is InMemory
    assert layer.read() is None


def test_a_store_compares_with_the_string_of_0_1_0_and_warns() -> None:
    layer = pg.nn.AnalogLinear(3, 2, hardware=pg.presets.ideal_inference())
    with pytest.warns(DeprecationWarning, match=r"layer\.store\.name"):
        assert layer.store == "digital"
    assert layer.store == layer.store
    assert layer.store != pg.nn.AnalogLinear(3, 2, hardware=pg.presets.ideal_inference()).store
    assert repr(layer.store) == "<Digital weight of AnalogLinear>"


def test_a_chip_without_its_devices_says_so() -> None:
    chip = pg.inference.program(pg.nn.AnalogLinear(3, 2, hardware=pg.presets.ideal_inference()), seed=1)
    chip.devices = None
    with pytest.raises(RuntimeError, match=r"AnalogLinear is programmed, but its devices were removed"):
        chip(torch.ones(1, 3))
