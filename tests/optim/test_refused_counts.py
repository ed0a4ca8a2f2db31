"""Gradients or rates that are finite but so large that their counted pulses would take practically forever."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg

COUNTED: list[tuple[Any, dict[str, Any]]] = [
    (pg.optim.MixedPrecision, {}),
    (pg.optim.TikiTakaV2, {"rows": None}),
    (pg.optim.ChoppedTikiTakaV2, {"rows": None}),
    (pg.optim.AGAD, {"rows": None}),
]
TRAINS: list[tuple[Any, dict[str, Any]]] = [(pg.optim.AnalogSGD, {}), (pg.optim.TikiTaka, {"rows": None})]
counted = pytest.mark.parametrize(("algorithm", "options"), COUNTED, ids=[a.__name__ for a, _ in COUNTED])
trains = pytest.mark.parametrize(("algorithm", "options"), TRAINS, ids=[a.__name__ for a, _ in TRAINS])


def hardware(algorithm: Any) -> pg.Hardware:
    if algorithm in (pg.optim.MixedPrecision, pg.optim.AnalogSGD):
        return pg.presets.pcm_pair_training()
    return pg.presets.tiki_taka_training()


def made(algorithm: Any, options: dict[str, Any]) -> tuple[nn.Module, torch.optim.Optimizer, Tensor]:
    """Two layers, the second of which receives the larger gradients, after one ordinary step."""
    torch.manual_seed(0)
    net = pg.convert(nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 5)), hardware(algorithm))
    optimizer, x = algorithm(net.parameters(), lr=0.02, **options), torch.randn(16, 32)
    step(net, optimizer, x, 1.0)
    return net, optimizer, x


def step(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, scale: float) -> None:
    optimizer.zero_grad()
    (net(x).square().mean() * scale).backward()
    optimizer.step()


def everything(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    entries = {f"{i} {k}": v for i, s in enumerate(optimizer.state.values()) for k, v in s.items()}
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in {**net.state_dict(), **entries}.items()}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[k], b[k]) if isinstance(a[k], Tensor) else a[k] == b[k] for k in a
    )


@counted
@pytest.mark.parametrize("scale", [1e8, 1e20, 1e30])
def test_too_many_pulses_are_refused_and_nothing_changes(algorithm: Any, options: dict[str, Any], scale: float) -> None:
    net, optimizer, x = made(algorithm, options)
    before, group = everything(net, optimizer), optimizer.param_groups[0]
    automatic = algorithm is not pg.optim.MixedPrecision  # a rate that follows the gradients bounds a spike of them
    group["lr"] *= scale if automatic else 1.0
    with pytest.raises(ValueError, match=rf"{algorithm.__name__}: the step would send .* the limit is .* Nothing was"):
        step(net, optimizer, x, 1.0 if automatic else scale)
    assert same(everything(net, optimizer), before)
    group["lr"] = 0.02
    step(net, optimizer, x, 1.0)  # and training goes on
    assert not same(everything(net, optimizer), before)


@trains
def test_trains_have_a_length_so_that_large_gradients_saturate(algorithm: Any, options: dict[str, Any]) -> None:
    net, optimizer, x = made(algorithm, options)
    step(net, optimizer, x, 1e20)
    assert all(torch.isfinite(p).all() for p in net.parameters())


@counted
def test_an_ordinary_step_is_that_without_a_snapshot(
    algorithm: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for beyond in (4.0, 1e9):  # the second suspects every step
        monkeypatch.setattr("phasegrad.optim.fast_array._BEYOND", beyond)
        net, optimizer, x = made(algorithm, options)
        step(net, optimizer, x, 1.0)
        found.append(everything(net, optimizer))
    assert same(*found)


def test_a_count_up_to_the_limit_is_sent_and_one_above_it_is_not() -> None:
    # One input of 1 and one gradient of -n epsilon: n pulses up, which leave the device at its bound.
    for pulses, fits in ((1190 * 10, True), (1210 * 10, False)):
        torch.manual_seed(0)
        layer = pg.convert(nn.Sequential(nn.Linear(1, 1, bias=False)), pg.presets.constant_step_training())[0]
        optimizer = pg.optim.MixedPrecision(layer.parameters(), lr=1.0)
        layer.weight.stage(torch.ones(1, 1), torch.full((1, 1), -(pulses + 0.5) * layer.devices.dw_min))
        before = layer.weight.detach().clone()
        if fits:
            optimizer.step()
            top = layer.devices.step_parameters[3]
            torch.testing.assert_close(layer.devices.conductance, top, rtol=0.01, atol=0.0)
        else:
            with pytest.raises(ValueError, match="the limit is 12000"):
                optimizer.step()
            assert torch.equal(layer.weight, before)


def test_a_residual_beyond_the_fast_window_leaves_the_fast_devices_at_their_bound() -> None:
    # A pair at 12 uS is written to 10 uS at most; the rest, 0.075, is 75 times the window of these capacitors.
    law = pg.presets.pcm_capacitor_training(every=1, inversion=False, device_variation=0.0, mismatch=0.0)
    assert law.fast is not None
    law = dataclasses.replace(law, fast=dataclasses.replace(law.fast, scale=0.001))
    layer = pg.convert(nn.Sequential(nn.Linear(3, 2, bias=False)), law)[0]
    layer.devices.conductance[0].fill_(12e-6)
    layer.devices.conductance[1].fill_(0.0)
    layer.weight.stage(torch.ones(1, 3), torch.ones(1, 2))
    pg.optim.AnalogSGD(layer.parameters(), lr=1e-6).step()
    fast = layer.devices.fast
    torch.testing.assert_close(fast.conductance, fast.step_parameters[3], rtol=0.02, atol=0.0)
