"""Adapters, fused norms, ties, copies and averaged networks that write weights on devices."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.stores.written import (
    BASE,
    CHIPS,
    HARDWARE,
    MEMORIES,
    WRITTEN,
    LanguageModel,
    TiedAnalog,
    add_to_data,
    assert_programmed,
    assign,
    error,
    fill_in_place,
    model,
    new_weight,
    stored,
    train,
    x,
)
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.stores.watched_weight import ProgrammedWeight


class Adapter(nn.Module):
    """A low-rank adapter next to a layer, merged as peft does."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.a = nn.Linear(base.in_features, 4, bias=False)
        self.b = nn.Linear(4, base.out_features, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.base(inputs) + self.b(self.a(inputs))

    def merge(self) -> nn.Module:
        self.base.weight.data += self.b.weight.detach() @ self.a.weight.detach()
        return self.base


@pytest.mark.parametrize("hardware", ["noisy", "constant"])
def test_an_adapter_that_is_merged_into_a_chip_keeps_what_it_learned(hardware: str) -> None:
    torch.manual_seed(0)
    inputs, labels = torch.randn(64, 16), torch.randint(4, (64,))
    digital = nn.Sequential(Adapter(nn.Linear(16, 32)), nn.ReLU(), Adapter(nn.Linear(32, 4)))
    chosen = replace(MEMORIES["constant"], scale=8.0) if hardware == "constant" else BASE
    net = pg.convert(digital, chosen, skip=["a", "b"])
    chip = net
    if hardware == "noisy":
        pg.hwa.calibrate(net, [inputs], recipe=None)
        chip = pg.inference.program(net, seed=0)
    trained = [p for n, p in chip.named_parameters() if n.split(".")[1] in "ab"]
    optimizer = torch.optim.Adam(trained, lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(chip(inputs), labels).backward()
        optimizer.step()
    merged = copy.deepcopy(chip)
    merged[0], merged[2] = merged[0].merge(), merged[2].merge()
    with pytest.warns(UserWarning, match=f"^0, 2: {WRITTEN}"):
        found = merged(inputs).argmax(1)
    accuracy, beside = ((y == labels).double().mean().item() for y in (found, chip(inputs).argmax(1)))
    assert beside > 0.7
    assert accuracy > 0.9 * beside


@pytest.mark.parametrize("hardware", ["pair", "soft bounds"])
def test_batch_norm_fuses_into_a_convolution(hardware: str) -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
    norm(torch.randn(50, 6, 4, 4) * 2.0 + 1.0)
    net, norm = stored(HARDWARE[hardware], conv), norm.eval()
    inputs = x(2, 3, 6, 6)
    with torch.no_grad():
        expected = norm(net.eval()(inputs))
        fused = nn.utils.fuse_conv_bn_eval(net, norm)
        with pytest.warns(UserWarning, match=WRITTEN):
            found = fused(inputs)
    assert float((found - expected).square().mean().sqrt()) < 0.1 * float(expected.std())


RETIED: dict[str, Callable[[nn.Module], Any]] = {
    "age": lambda chip: pg.inference.age(chip, seconds=3.15e7),
    "compensate": lambda chip: pg.inference.compensate(chip, seed=0),
    "forward": lambda chip: chip(torch.arange(5)),
    "state dict": lambda chip: chip.state_dict(),
}


@pytest.mark.parametrize("use", RETIED)
def test_tying_again_never_refreshes_the_digital_embedding(use: str) -> None:
    torch.manual_seed(0)
    chip = pg.inference.program(pg.convert(LanguageModel(), BASE), seed=0)
    chip.tie_weights()
    before = chip.embedding.weight.detach().clone()
    with pytest.warns(UserWarning, match=f"head: {WRITTEN}"):
        result = RETIED[use](chip)
    used = result if isinstance(result, nn.Module) else pg.inference.age(chip, seconds=1.0)
    for one in (chip, used):
        assert torch.equal(one.embedding.weight, before)
        assert one.embedding.weight.requires_grad
        assert type(one.embedding.weight) is nn.Parameter
        assert type(one.head.weight) is ProgrammedWeight
        assert not one.head.weight.requires_grad
    assert error(chip.head, before) < 0.05


@pytest.mark.parametrize("hardware", ["pair", "soft bounds"])
def test_a_write_to_tied_layers_is_programmed_once(hardware: str) -> None:
    torch.manual_seed(0)
    net = stored(HARDWARE[hardware], TiedAnalog())
    wanted = add_to_data(net.first)
    with pytest.warns(UserWarning, match=f"^first, last: {WRITTEN}"):
        net(x(3, 6))
    assert net.first.weight is net.last.weight
    assert net.first.devices is net.last.devices
    assert_programmed(net.last, wanted)


@pytest.mark.parametrize("hardware", ["pair", "soft bounds"])
def test_tied_layers_that_get_the_same_weight_stay_tied(hardware: str) -> None:
    torch.manual_seed(0)
    net = stored(HARDWARE[hardware], TiedAnalog())
    devices = net.first.devices
    net.first.weight = net.last.weight = nn.Parameter(new_weight(net.first))
    with pytest.warns(UserWarning, match=f"^first, last: {WRITTEN}"):
        net(x(3, 6))
    assert net.first.weight is net.last.weight
    assert net.first.devices is net.last.devices is devices
    assert_programmed(net.first, new_weight(net.first))


@pytest.mark.parametrize("hardware", ["pair", "soft bounds", "capacitor"])
def test_a_tied_layer_that_gets_another_weight_gets_devices_of_its_own(hardware: str) -> None:
    torch.manual_seed(0)
    net = stored(HARDWARE[hardware], TiedAnalog())
    old = pg.inference.age(net, seconds=60.0)
    shared, before = old.last.devices, old.last.devices.conductance.clone()
    wanted = assign(old.first)
    with pytest.warns(UserWarning, match=f"^first: {WRITTEN}"):
        old(x(3, 6))
    assert_programmed(old.first, wanted)
    assert old.last.devices is shared
    assert torch.equal(shared.conductance, before)
    assert old.first.devices is not shared
    assert float(old.first.devices.clock) == 60.0
    if hardware == "soft bounds":
        assert not torch.equal(old.first.devices.step_parameters, shared.step_parameters)


@pytest.mark.parametrize("hardware", ["pair", "soft bounds"])
def test_a_layer_that_gets_the_weight_of_another_programs_its_own_devices(hardware: str) -> None:
    torch.manual_seed(0)
    net = stored(HARDWARE[hardware], nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)))
    wanted, before = net[0].weight.detach().clone(), net[0].devices.conductance.clone()
    net[2].weight = net[0].weight
    with pytest.warns(UserWarning, match=f"^2: {WRITTEN}"):
        net(x(3, 6))
    assert_programmed(net[2], wanted)
    assert net[2].weight is not net[0].weight
    assert torch.equal(net[0].devices.conductance, before)


def test_weights_are_clipped_and_scaled_as_when_they_were_programmed() -> None:
    layer = pg.nn.AnalogLinear(12, 8, hardware=CHIPS["pair"])
    pg.hwa.Recipe(clip_sigma=1.0).apply(layer)
    chip = pg.inference.program(layer, seed=0)
    wanted = 10.0 * new_weight(chip)
    with torch.no_grad():
        layer.weight.copy_(wanted)
        chip.weight.copy_(wanted)
    with pytest.warns(UserWarning, match=WRITTEN):
        chip(x())
    torch.testing.assert_close(chip.weight.detach(), pg.inference.program(layer, seed=1).weight.detach())


def test_values_that_cells_cannot_store_are_clipped_and_said() -> None:
    net = stored(MEMORIES["constant"])
    largest = net[0].hardware.scale
    net[0].weight.data[0, 0] = 10.0 * largest
    fill_in_place(net[2])
    with pytest.warns(UserWarning, match=r"^0, 2: .*beyond hardware\.scale were clipped in 0\."):
        net(x())
    assert float(net[0].weight.detach().max()) <= 1.5 * largest


def test_a_learned_input_range_covers_the_first_inputs_of_a_new_weight() -> None:
    net = pg.convert(nn.Linear(12, 8), BASE)
    pg.hwa.calibrate(net, [x(1000, 12)], recipe=None)
    chip = pg.inference.program(net, seed=0)
    narrow = chip.input_range.item()
    add_to_data(chip)
    with pytest.warns(UserWarning, match=WRITTEN):
        chip(0.1 * x(1000, 12))
    assert chip.input_range.item() == narrow  # never narrower
    add_to_data(chip)
    with pytest.warns(UserWarning, match=WRITTEN):
        chip(4.0 * x(1000, 12))
    assert chip.input_range.item() == pytest.approx(4.0 * narrow)
    chip(16.0 * x(1000, 12))
    assert chip.input_range.item() == pytest.approx(4.0 * narrow)


def test_a_write_is_programmed_at_the_present_time_and_drifts_from_then() -> None:
    old = pg.inference.age(stored(BASE), seconds=1e6)
    wanted = fill_in_place(old[0])
    with pytest.warns(UserWarning, match=WRITTEN):
        old(x())
    assert float(old[0].devices.programmed_at) == float(old[0].devices.clock) == 1e6
    assert error(old[0], wanted) < 0.05
    older = pg.inference.age(old, seconds=1e6)
    left = older[0].weight.norm() / old[0].weight.norm()
    assert 0.4 < left < 0.7  # (1e6 / 20) ** -0.06


def test_a_write_to_a_copy_leaves_the_original_alone() -> None:
    net = stored(BASE)
    before, copied = {k: v.clone() for k, v in net.state_dict().items()}, copy.deepcopy(net)
    add_to_data(copied[0])
    with pytest.warns(UserWarning, match=WRITTEN):
        copied(x())
    assert all(torch.equal(net.state_dict()[k], v) for k, v in before.items())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("write", [add_to_data, fill_in_place, assign])
@pytest.mark.parametrize("hardware", ["pair", "soft bounds"])
def test_copies_keep_what_was_written(
    hardware: str, write: Callable[[nn.Module], Tensor], copied: Callable[[nn.Module], nn.Module]
) -> None:
    net = stored(HARDWARE[hardware])
    wanted = write(net[0])
    other = copied(net)
    with pytest.warns(UserWarning, match=WRITTEN):
        other(x())
    assert_programmed(other[0], wanted)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_of_a_chip_keep_ties(copied: Callable[[nn.Module], nn.Module]) -> None:
    net = copied(stored(BASE, TiedAnalog()))
    assert net.first.weight is net.last.weight
    assert net.first.devices is net.last.devices is net.first.weight.devices


@pytest.mark.parametrize("hardware", ["pair", "soft bounds"])
def test_the_devices_of_a_state_dict_count_more_than_its_weight(hardware: str) -> None:
    net, other = stored(HARDWARE[hardware]), stored(HARDWARE[hardware])
    state = {k: v.clone() for k, v in net.state_dict().items()}
    state["0.weight"] += 0.1
    other.load_state_dict(state)
    with pytest.warns(UserWarning, match="^0: the state dict that was loaded has another weight than its devices"):
        other(x())
    assert torch.equal(other[0].weight, net[0].weight)
    assert torch.equal(other[0].devices.conductance, net[0].devices.conductance)


def test_devices_that_are_loaded_without_the_weight_refresh_it() -> None:
    net, other = stored(BASE), pg.inference.program(pg.convert(model(), BASE), seed=1)
    state = net.state_dict()
    del state["0.weight"]
    other.load_state_dict(state, strict=False)
    other(x())
    assert torch.equal(other[0].weight, net[0].weight)


# Averaged and target networks.


def test_target_networks_copy_state_dicts() -> None:
    net = stored(MEMORIES["pairs"])
    target = copy.deepcopy(net)
    train(net, 5)
    target.load_state_dict(net.state_dict())
    assert torch.equal(target(x()), net(x()))
    assert torch.equal(target[0].devices.conductance, net[0].devices.conductance)


def test_averages_of_what_is_read_are_digital() -> None:
    net = stored(MEMORIES["constant"])
    averaged = torch.optim.swa_utils.AveragedModel(pg.to_digital(net))
    read_weights = []
    for _ in range(4):
        train(net, 2)
        averaged.update_parameters(pg.to_digital(net))
        read_weights.append(net[0].weight.detach().clone())
    torch.testing.assert_close(averaged.module[0].weight.detach(), torch.stack(read_weights).mean(0))
    back = stored(MEMORIES["constant"])
    back.load_state_dict(averaged.module.state_dict())
    assert_programmed(back[0], averaged.module[0].weight.detach())


def test_targets_that_follow_softly_are_digital() -> None:
    net = stored(MEMORIES["constant"])
    target, expected = pg.to_digital(net), net[0].weight.detach().clone()
    for _ in range(3):
        train(net, 2)
        for mine, theirs in zip(target.parameters(), pg.to_digital(net).parameters(), strict=True):
            mine.data.lerp_(theirs.data, 0.05)
        expected.lerp_(net[0].weight.detach(), 0.05)
    torch.testing.assert_close(target[0].weight.detach(), expected)


@pytest.mark.parametrize("hardware", ["constant", "pairs"])
def test_an_average_that_is_written_to_devices_is_programmed(hardware: str) -> None:
    net = stored(MEMORIES[hardware])
    averaged = torch.optim.swa_utils.AveragedModel(net)
    averaged.update_parameters(net)
    averaged(x())  # equal so far: no warning
    first = net[0].weight.detach().clone()
    train(net, 5)
    averaged.update_parameters(net)
    with pytest.warns(UserWarning, match=rf"module\.0, module\.2: {WRITTEN}"):
        averaged(x())
    assert_programmed(averaged.module[0], (first + net[0].weight.detach()) / 2.0)


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_a_target_in_memory_is_programmed(tau: float) -> None:
    net = stored(MEMORIES["constant"])
    target = copy.deepcopy(net)
    train(net, 5)
    wanted = target[0].weight.detach().lerp(net[0].weight.detach(), tau)
    for mine, theirs in zip(target.parameters(), net.parameters(), strict=True):
        mine.data.lerp_(theirs.data, tau)
    with pytest.warns(UserWarning, match=WRITTEN):
        target(x())
    assert_programmed(target[0], wanted)
