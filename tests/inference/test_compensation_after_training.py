"""Compensation of nets trained in the memory refers to the end of the training, whatever the cell and the optimizer."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import phasegrad as pg
from phasegrad.cells import Cell, DifferentialPair, MultiMemristive
from phasegrad.crossbar import Hardware, Pulses
from phasegrad.devices import nandakumar_2018_device

DAY = 86_400.0
DRIFT = (DAY / 38.6) ** 0.04  # the law of nandakumar_2018_device: 1.361
QUIET = dataclasses.replace(nandakumar_2018_device(), read_sd=())
CELLS: dict[str, Cell] = {
    "pair": DifferentialPair(device=QUIET, refresh=5, reach=10.5e-6),
    "multi-memristive": MultiMemristive(device=QUIET, pairs=2, refresh=5, reach=10.5e-6),
}
every_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS.keys())
Optimizer = Callable[..., torch.optim.Optimizer]
TRAINED: dict[str, tuple[Callable[[], Hardware], Optimizer]] = {
    "constant steps": (pg.presets.constant_step_training, pg.optim.AnalogSGD),
    "soft bounds": (pg.presets.soft_bounds_training, pg.optim.MixedPrecision),
    "pcm pair": (pg.presets.pcm_pair_training, pg.optim.AnalogSGD),
    "mixed precision": (pg.presets.pcm_pair_training, pg.optim.MixedPrecision),
    "multi-memristive": (pg.presets.multi_memristive_training, pg.optim.AnalogSGD),
    "capacitor": (lambda: pg.presets.pcm_capacitor_training(every=100), pg.optim.AnalogSGD),
    "tiki-taka": (pg.presets.tiki_taka_training, pg.optim.TikiTakaV2),
}


def on(cell: Cell) -> Hardware:
    return Hardware(cell=cell, scale=0.3, pulses=Pulses())


def net_of(hardware: Hardware) -> nn.Module:
    torch.manual_seed(0)
    digital = nn.Sequential(nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 8))
    for parameter in digital.parameters():
        parameter.data.mul_(0.1)  # training changes the weights by much more
    return pg.convert(digital, hardware)


def train(net: nn.Module, optimizer: Optimizer = pg.optim.AnalogSGD, steps: int = 20) -> None:
    chosen = optimizer(net.parameters(), lr=0.1)
    for _ in range(steps):
        chosen.zero_grad()
        F.mse_loss(net(torch.randn(4, 24)), torch.randn(4, 8).sign()).backward()
        chosen.step()


def gains(net: nn.Module) -> list[float]:
    return [layer.devices.gain.mean().item() for layer in net.modules() if isinstance(layer, pg.nn.AnalogLinear)]


def weights(net: nn.Module) -> torch.Tensor:
    return torch.cat([layer.weight.detach().flatten() for layer in (net[0], net[2])])  # type: ignore[index]


@pytest.mark.parametrize(("preset", "optimizer"), TRAINED.values(), ids=TRAINED.keys())
def test_gain_is_one_at_the_end_of_the_training(preset: Callable[[], Hardware], optimizer: Optimizer) -> None:
    net = net_of(preset())
    train(net, optimizer)
    noisy = 0.1 if preset().cell.device.reads_are_noisy else 1e-5
    assert gains(pg.inference.compensate(net, seed=1)) == pytest.approx([1.0, 1.0], abs=noisy)


@every_cell
@pytest.mark.parametrize("optimizer", [pg.optim.AnalogSGD, pg.optim.MixedPrecision])
def test_compensation_undoes_the_drift_since_training(cell: Cell, optimizer: Optimizer) -> None:
    net = net_of(on(cell))
    train(net, optimizer)
    old = pg.inference.age(net, seconds=DAY)
    torch.testing.assert_close(weights(old) * DRIFT, weights(net), rtol=1e-4, atol=1e-6)
    corrected = pg.inference.compensate(old, seed=1)
    assert gains(corrected) == pytest.approx([DRIFT, DRIFT], rel=1e-4)
    torch.testing.assert_close(weights(corrected), weights(net), rtol=1e-4, atol=1e-6)


@every_cell
def test_training_may_continue_after_a_compensation(cell: Cell) -> None:
    net = net_of(on(cell))
    train(net)
    later = pg.inference.compensate(pg.inference.age(net, seconds=DAY), seed=1)
    train(later)
    now = weights(later)
    assert not torch.allclose(now, weights(net), atol=1e-3)
    again = pg.inference.compensate(later, seed=2)
    torch.testing.assert_close(weights(again), now, rtol=1e-4, atol=1e-6)
    aged = pg.inference.compensate(pg.inference.age(later, seconds=100.0 * DAY), "tile", seed=3)
    total = weights(aged).abs().sum() / now.abs().sum()
    assert total.item() == pytest.approx(1.0, abs=0.01)  # devices pulsed at different times drift differently


@every_cell
def test_a_checkpoint_of_the_training_is_enough(cell: Cell) -> None:
    net = net_of(on(cell))
    train(net)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    loaded = net_of(on(cell))
    loaded.load_state_dict(torch.load(file, weights_only=True))
    old = pg.inference.age(loaded, seconds=DAY)
    file = io.BytesIO()
    torch.save(old.state_dict(), file)
    file.seek(0)
    loaded = net_of(on(cell))
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert gains(pg.inference.compensate(loaded, seed=1)) == pytest.approx([DRIFT, DRIFT], rel=1e-4)


@every_cell
def test_a_checkpoint_of_the_release_before_measures_its_baseline_again(cell: Cell) -> None:
    net = net_of(on(cell))
    before = [layer.devices.baseline.clone() for layer in (net[0], net[2])]
    train(net)
    for layer, baseline in zip((net[0], net[2]), before, strict=True):
        layer.devices.baseline.copy_(baseline)  # release 0.1.0 kept that of conversion
    state = net.state_dict()
    for name, metadata in state._metadata.items():
        if name.endswith("devices"):
            metadata["version"] = 1
    loaded = net_of(on(cell))
    loaded.load_state_dict(state)
    assert gains(pg.inference.compensate(loaded, seed=1)) == pytest.approx([1.0, 1.0], abs=1e-5)


def test_the_baseline_of_a_noisy_read_is_noisy() -> None:
    net = net_of(on(DifferentialPair(device=nandakumar_2018_device())))
    train(net)
    baselines = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        baselines.append(pg.inference.age(net, seconds=0.0)[0].devices.baseline)
    assert not torch.equal(*baselines)
    assert torch.allclose(*baselines, rtol=0.5)


def test_a_chip_that_was_never_pulsed_draws_nothing() -> None:
    net = pg.convert(nn.Sequential(nn.Linear(8, 4)), pg.presets.pcm_inference())
    chip = pg.inference.program(net, seed=0)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    pg.inference.age(chip, seconds=1.0)
    assert torch.equal(torch.get_rng_state(), state)
