"""A profile shows layers and pulses by their names."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import phasegrad as pg


def names(act: object) -> set[str]:
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiled:
        act()  # type: ignore[operator]
    return {event.key for event in profiled.key_averages() if event.key.startswith("phasegrad::")}


def test_layers_and_their_synchronisation_are_named() -> None:
    net = pg.convert(nn.Sequential(nn.Linear(6, 4)), pg.presets.pcm_inference())
    shown = names(lambda: (net(torch.randn(2, 6)), pg.inference.program(net, seed=0)))
    assert {"phasegrad::AnalogLinear [4, 6] forward", "phasegrad::AnalogLinear [4, 6] sync"} <= shown


# On the reference a profile of pulses has some hundred thousand events.
@pytest.mark.slow
def test_training_in_the_memory_is_named() -> None:
    net = pg.convert(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)), pg.presets.pcm_capacitor_training(every=2))
    optimizer = pg.optim.AnalogSGD(net.parameters(), lr=0.1)

    def step() -> None:
        net(torch.randn(3, 6)).sum().backward()
        optimizer.step()

    shown = names(step)
    assert {"phasegrad::AnalogLinear [4, 5] forward", "phasegrad::AnalogLinear [4, 5] backward"} <= shown
    assert {"phasegrad::update pulses [5, 6]", "phasegrad::transfer [5, 6]"} <= shown


@pytest.mark.slow
def test_fast_arrays_are_named() -> None:
    net = pg.convert(nn.Sequential(nn.Linear(6, 4)), pg.presets.tiki_taka_training())
    optimizer = pg.optim.TikiTaka(net.parameters(), lr=1.0)

    def step() -> None:
        net(torch.randn(9, 6)).sum().backward()
        optimizer.step()

    assert {"phasegrad::read fast array [4, 6]", "phasegrad::pulse slow array [4, 6]"} <= names(step)


def test_without_a_profiler_nothing_is_recorded(monkeypatch: object) -> None:
    net = pg.convert(nn.Sequential(nn.Linear(6, 4)), pg.presets.pcm_inference())
    entered = []
    original = torch.autograd.profiler.record_function.__enter__
    torch.autograd.profiler.record_function.__enter__ = lambda self: entered.append(self) or original(self)  # type: ignore[method-assign]
    try:
        net(torch.randn(2, 6))
    finally:
        torch.autograd.profiler.record_function.__enter__ = original  # type: ignore[method-assign]
    assert entered == []
