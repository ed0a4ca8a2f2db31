"""Repeated updates of the same devices do what the op does, whatever happens to the devices in between."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable

import pytest
import torch

import phasegrad as pg
from phasegrad.ops import workspace
from phasegrad.ops.direct import call
from phasegrad.ops.repeated_update import RepeatedUpdate
from phasegrad.stores.analog_weight import AnalogWeight

PRESETS = {
    "constant": pg.presets.constant_step_training,
    "pcm-pair": pg.presets.pcm_pair_training,
    "multi-memristive": pg.presets.multi_memristive_training,
    "pcm-capacitor": pg.presets.pcm_capacitor_training,
}


def made(name: str) -> tuple[pg.nn.AnalogLinear, torch.optim.Optimizer]:
    torch.manual_seed(1)
    net = pg.nn.AnalogLinear(37, 21, hardware=PRESETS[name]())
    return net, pg.optim.AnalogSGD(net.parameters(), lr=0.1)


def step(net: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    optimizer.zero_grad()
    torch.manual_seed(seed)
    net(torch.randn(5 + seed % 2, 37)).square().mean().backward()
    optimizer.step()


def state(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every update call the op."""
    monkeypatch.setattr(RepeatedUpdate, "__call__", lambda self, *arguments: call("pulsed_update", *arguments))


@pytest.mark.parametrize("name", PRESETS)
def test_repeated_updates_are_those_of_the_op(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, optimizer = made(name)
    for seed in range(6):
        step(net, optimizer, seed)
    forget(monkeypatch)
    other, of_other = made(name)
    for seed in range(6):
        step(other, of_other, seed)
    assert same(state(net), state(other))


def test_memory_that_is_not_kept_lives_until_the_update_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    net, optimizer = made("constant")
    other, of_other = made("constant")
    for seed in range(4):
        step(net, optimizer, seed)
    monkeypatch.setattr(workspace, "MOST_KEPT", 0)
    monkeypatch.setattr(workspace, "_scratch", threading.local())
    for seed in range(4):
        step(other, of_other, seed)
    assert same(state(net), state(other))


def clone_conductance(devices: AnalogWeight) -> None:
    devices.conductance = devices.conductance.clone()


def move_conductance(devices: AnalogWeight) -> None:
    devices.conductance.data = devices.conductance.data.clone()


def age_half(devices: AnalogWeight) -> None:
    devices.conductance.mul_(0.5)


@pytest.mark.parametrize("change", [clone_conductance, move_conductance, age_half])
def test_devices_that_were_replaced_moved_or_written_are_found(
    change: Callable[[AnalogWeight], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> dict[str, torch.Tensor]:
        net, optimizer = made("pcm-pair")
        for seed in range(4):
            step(net, optimizer, seed)
            if seed == 1:
                change(net.devices)
        return state(net)

    repeated = run()
    forget(monkeypatch)
    assert same(repeated, run())


def test_updates_of_a_copy_leave_the_original_alone() -> None:
    net, optimizer = made("constant")
    step(net, optimizer, 0)
    step(net, optimizer, 1)
    before, copied = state(net), copy.deepcopy(net)
    step(copied, pg.optim.AnalogSGD(copied.parameters(), lr=0.1), 2)
    assert same(state(net), before)
    assert not same(state(copied), before)
    step(net, optimizer, 2)
    assert same(state(net), state(copied))
    restored = pickle.loads(pickle.dumps(net))
    step(restored, pg.optim.AnalogSGD(restored.parameters(), lr=0.1), 3)
    assert same(state(net), state(copied))


def test_arguments_of_a_repeated_update_are_checked() -> None:
    net, optimizer = made("constant")
    step(net, optimizer, 0)
    step(net, optimizer, 1)
    before = net.devices.conductance.clone()
    for x, d, error in (
        (torch.randn(3, 36), torch.randn(3, 21), ValueError),
        (torch.randn(3, 37), torch.randn(2, 21), ValueError),
        (torch.full((3, 37), torch.nan), torch.randn(3, 21), ValueError),
        (torch.randn(3, 37), torch.full((3, 21), torch.inf), ValueError),
    ):
        net.weight.stage(x, d)
        with pytest.raises(error):
            net.weight.apply_pulses(pg.stores.pulsed_weight.update, net.weight.staged(), 0.1, torch.tensor([3]))
        net.weight.grad = None
    net.weight.stage(torch.randn(3, 37), torch.randn(3, 21))
    with pytest.raises(ValueError, match="learning rate is nan"):
        net.weight.apply_pulses(pg.stores.pulsed_weight.update, net.weight.staged(), float("nan"), torch.tensor([3]))
    assert torch.equal(net.devices.conductance, before)
