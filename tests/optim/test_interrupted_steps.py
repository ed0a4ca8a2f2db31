"""Steps that an exception or Ctrl-C stops: each weight is updated or untouched, and no sample pulses twice."""

from __future__ import annotations

import _thread
import copy
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.optim.interrupts import deferred_interrupts
from phasegrad.stores import pulsed_array, pulsed_weight, staged_gradient
from phasegrad.stores.programming.writer import Writer

TRAININGS: dict[str, tuple[Callable[[], pg.Hardware], Callable[..., Any]]] = {
    "constant": (pg.presets.constant_step_training, pg.optim.AnalogSGD),
    "pcm pair": (pg.presets.pcm_pair_training, pg.optim.AnalogSGD),
    "capacitor": (lambda: pg.presets.pcm_capacitor_training(every=20), pg.optim.AnalogSGD),
    "mixed precision": (pg.presets.pcm_pair_training, pg.optim.MixedPrecision),
    "TTv2": (pg.presets.tiki_taka_training, pg.optim.TikiTakaV2),
    "AGAD": (pg.presets.tiki_taka_training, pg.optim.AGAD),
}
training = pytest.mark.parametrize("name", TRAININGS)


class StoppedError(Exception):
    """What the tests raise."""


def made(name: str) -> tuple[Any, Any]:
    torch.manual_seed(0)
    hardware, optimizer = TRAININGS[name]
    digital = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4))
    net = pg.convert(digital, hardware())
    return net, optimizer(net.parameters(), lr=0.5, momentum=0.5)


def backward(net: nn.Module) -> None:
    torch.manual_seed(1)
    net(torch.randn(16, 8)).square().mean().backward()


def state(net: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in net.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def whole_step(name: str) -> dict[str, Tensor]:
    net, optimizer = made(name)
    backward(net)
    torch.manual_seed(2)
    optimizer.step()
    return state(net)


def stop_at(monkeypatch: pytest.MonkeyPatch, module: Any, function: str, call: int, action: Callable[[], Any]) -> None:
    """Replace a function so that its call with this number runs ``action`` first."""
    original, calls = getattr(module, function), 0

    def replaced(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            action()
        return original(*args, **kwargs)

    monkeypatch.setattr(module, function, replaced)


def raise_stopped() -> None:
    raise StoppedError


@training
def test_an_exception_between_layers_loses_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, optimizer = made(name)
    before = state(net)
    backward(net)
    torch.manual_seed(2)
    stop_at(monkeypatch, pg.nn.InMemoryWeight, "staged", 2, raise_stopped)
    with pytest.raises(StoppedError):
        optimizer.step()
    assert [net[i].weight.grad is None for i in (0, 2, 4)] == [True, False, False]
    for i in (2, 4):
        assert all(torch.equal(v, before[k]) for k, v in state(net).items() if k.startswith(f"{i}."))
    assert all(torch.equal(net[i].bias, before[f"{i}.bias"]) for i in (0, 2, 4))
    optimizer.step()
    assert all(net[i].weight.grad is None for i in (0, 2, 4))
    after, expected = state(net), whole_step(name)
    assert all(torch.equal(after[k], expected[k]) for k in after if k.startswith("0.") or k.endswith("bias"))


@pytest.mark.parametrize("name", ["constant", "pcm pair", "TTv2"])
def test_a_step_that_failed_before_its_first_pulse_can_be_repeated(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, optimizer = made(name)
    before = state(net)
    backward(net)
    with monkeypatch.context() as patch:
        stop_at(patch, pulsed_array, "pulse", 1, raise_stopped)
        with pytest.raises(StoppedError):
            optimizer.step()
    assert same(state(net), before)
    torch.manual_seed(2)
    optimizer.step()
    assert same(state(net), whole_step(name))


@training
@pytest.mark.parametrize("function", ["count_and_refresh", "_finish_update"])
def test_a_failure_after_the_pulses_uses_the_samples_up(
    name: str, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, optimizer = made(name)
    backward(net)
    module = pulsed_array if function == "count_and_refresh" else pulsed_weight
    with monkeypatch.context() as patch:
        stop_at(patch, module, function, 1, raise_stopped)
        with pytest.raises(StoppedError):
            optimizer.step()
    first = net[0].devices
    assert net[0].weight.grad is None or not net[0].weight.grad.samples
    assert torch.equal(net[0].weight, first.logical_weight())
    pulsed = (first.fast or first).conductance.clone()
    optimizer.step()
    assert torch.equal((first.fast or first).conductance, pulsed)  # not a second time
    assert all(net[i].weight.grad is None for i in (0, 2, 4))


def test_a_failed_transfer_leaves_the_devices_and_is_made_later(monkeypatch: pytest.MonkeyPatch) -> None:
    net, optimizer = made("capacitor")
    for _ in range(2):  # 16 samples each; a transfer is due at 20
        optimizer.zero_grad()
        backward(net)
        with monkeypatch.context() as patch:
            stop_at(patch, Writer, "finish", 1, lambda: net[0].devices.polarity.neg_() and raise_stopped())
            if int(net[0].devices.samples) == 16:
                slow = net[0].devices.conductance.clone()
                with pytest.raises(StoppedError):
                    optimizer.step()
            else:
                optimizer.step()
    assert torch.equal(net[0].devices.conductance, slow)
    assert float(net[0].devices.polarity) == 1.0
    assert torch.equal(net[0].weight, net[0].devices.logical_weight())
    optimizer.zero_grad()
    backward(net)
    optimizer.step()
    assert not torch.equal(net[0].devices.conductance, slow)
    assert float(net[0].devices.polarity) == -1.0


def test_blocks_that_were_sent_are_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staged_gradient, "_MAX_UNFOLDED", 1)  # blocks of 1,024 samples
    torch.manual_seed(0)
    net = pg.nn.AnalogConv2d(1, 2, 1, bias=False, hardware=pg.presets.constant_step_training())
    optimizer = pg.optim.AnalogSGD(net.parameters(), lr=0.1)
    net(torch.randn(40, 1, 8, 8)).sum().backward()  # 2,560 samples
    sizes: list[int] = []
    original = pulsed_array.pulse

    def pulse(array: Any, x: Tensor, *rest: Any) -> None:
        sizes.append(len(x))
        if len(sizes) == 2:
            raise StoppedError
        original(array, x, *rest)

    monkeypatch.setattr(pulsed_array, "pulse", pulse)
    with pytest.raises(StoppedError):
        optimizer.step()
    assert torch.equal(net.weight, net.devices.logical_weight().view(2, 1, 1, 1))
    assert net.weight.pending.number == 2560 - 1024
    optimizer.step()
    assert sizes == [1024, 1024, 1024, 512]
    assert net.weight.grad is None


@training
def test_ctrl_c_within_a_layer_waits_until_the_layer_is_complete(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, optimizer = made(name)
    backward(net)
    torch.manual_seed(2)
    function = "send_counts" if name == "mixed precision" else "pulse"
    original, calls = getattr(pulsed_array, function), 0

    def sent(*arguments: Any) -> None:
        nonlocal calls
        original(*arguments)
        calls += 1
        if calls == 1:
            signal.raise_signal(signal.SIGINT)  # as a signal that arrives while the kernel runs

    monkeypatch.setattr(pulsed_array, function, sent)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step()
    assert [net[i].weight.grad is None for i in (0, 2, 4)] == [True, False, False]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    optimizer.step()
    assert same(state(net), whole_step(name))


@pytest.fixture
def handled() -> Iterator[list[int]]:
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    yield seen
    signal.signal(signal.SIGINT, before)


def test_the_programs_own_handler_is_called_between_layers(handled: list[int]) -> None:
    with deferred_interrupts() as deliver:
        signal.raise_signal(signal.SIGINT)
        assert not handled
        deliver()
        assert handled == [signal.SIGINT]
        _thread.interrupt_main()
    assert handled == [signal.SIGINT] * 2


def test_a_second_ctrl_c_takes_effect_at_once() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), deferred_interrupts():  # noqa: PT012 -- where it raises is the test
        for number in (1, 2, 3):
            reached.append(number)
            signal.raise_signal(signal.SIGINT)
    assert reached == [1, 2]


def test_a_program_that_ignores_ctrl_c_and_threads_are_left_alone() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with deferred_interrupts():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    found = []

    def step() -> None:
        net, optimizer = made("constant")
        backward(net)
        optimizer.step()
        found.append(net[0].weight.grad)

    thread = threading.Thread(target=step)
    thread.start()
    thread.join()
    assert found == [None]


@training
def test_a_step_without_a_gradient_changes_nothing(name: str) -> None:
    net, optimizer = made(name)
    for _ in range(2):
        backward(net)
        optimizer.step()
        optimizer.zero_grad()
    before, saved, random = state(net), copy.deepcopy(optimizer.state_dict()), torch.get_rng_state()
    for _ in range(2):
        optimizer.step()
    assert same(state(net), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert str(optimizer.state_dict()) == str(saved)
