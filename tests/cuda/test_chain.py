"""From a digital net to an aged chip, and training in the memory, on CUDA; without a GPU, in Triton's interpreter."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.contracts.triton_kernels import DEVICE
from tests.cuda.chain import accuracy, classes, needs_kernels, perceptron
from torch import nn

import phasegrad as pg

pytestmark = needs_kernels


def trained() -> nn.Module:
    net, (x, labels) = perceptron(), classes()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(net(x), labels).backward()
        optimizer.step()
    return net


def test_a_net_is_fine_tuned_programmed_and_aged() -> None:
    batches = [classes(16)]
    net = pg.convert(trained(), pg.presets.pcm_inference())
    pg.hwa.calibrate(net, [batches[0][0]], batches=1)
    pg.hwa.fine_tune(net, batches, loss=F.cross_entropy, epochs=1)
    x, labels = classes(16, seed=2)
    assert accuracy(net, x, labels) > 0.9
    chip = pg.inference.program(net, seed=0)
    old = pg.inference.age(chip, seconds=86_400.0)
    compensated = pg.inference.compensate(old)
    assert accuracy(compensated, x, labels) > 0.9
    report = pg.inference.accuracy_over_time(
        net, lambda n: accuracy(n, x, labels), times=(86_400.0,), chips=1, seed=0, progress=False
    )
    assert report.mean().min() > 0.8


OPTIMIZERS: dict[str, tuple[Callable[..., Any], Callable[[], pg.Hardware]]] = {
    "AnalogSGD, soft bounds": (pg.optim.AnalogSGD, pg.presets.soft_bounds_training),
    "AnalogSGD, pairs": (pg.optim.AnalogSGD, pg.presets.pcm_pair_training),
    "AnalogSGD, capacitors": (pg.optim.AnalogSGD, pg.presets.pcm_capacitor_training),
    "TikiTaka": (pg.optim.TikiTaka, pg.presets.tiki_taka_training),
    "TikiTakaV2": (pg.optim.TikiTakaV2, pg.presets.tiki_taka_training),
    "ChoppedTikiTakaV2": (pg.optim.ChoppedTikiTakaV2, pg.presets.tiki_taka_training),
    "AGAD": (pg.optim.AGAD, pg.presets.tiki_taka_training),
    "MixedPrecision": (pg.optim.MixedPrecision, pg.presets.soft_bounds_training),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pulses_train_in_the_memory(name: str) -> None:
    make, preset = OPTIMIZERS[name]
    x, labels = classes(4)
    net = pg.convert(nn.Linear(12, 3, bias=False).to(DEVICE), preset())
    optimizer = make(net.parameters(), lr=0.1)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(net(x), labels).backward()
        optimizer.step()
    assert net.weight.isfinite().all()
    assert any(not torch.equal(value, state[name]) for name, value in net.state_dict().items() if "conductance" in name)


def test_pulses_lower_the_loss() -> None:
    x, labels = classes(8)
    net = pg.convert(nn.Linear(12, 3).to(DEVICE), pg.presets.soft_bounds_training())
    optimizer = pg.optim.AnalogSGD(net.parameters(), lr=0.2)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_a_chip_has_the_same_weights_to_the_bit_on_every_device() -> None:
    net = pg.convert(trained(), pg.presets.pcm_inference())
    pg.hwa.calibrate(net, [classes()[0]], batches=1, recipe=None)
    chip = pg.inference.age(pg.inference.program(net, seed=0), seconds=3600.0)
    file = io.BytesIO()
    torch.save(chip.state_dict(), file)
    file.seek(0)
    elsewhere = copy.deepcopy(chip).cpu()
    elsewhere.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    back = copy.deepcopy(elsewhere).to(DEVICE)
    for other in (elsewhere, back):
        for (name, a), b in zip(chip.state_dict().items(), other.state_dict().values(), strict=True):
            assert torch.equal(a.cpu(), b.cpu()), name


def test_programming_with_a_seed_is_the_same_on_every_device() -> None:
    net = pg.convert(trained(), pg.presets.pcm_inference())
    pg.hwa.calibrate(net, [classes()[0]], batches=1, recipe=None)
    chip, on_cpu = pg.inference.program(net, seed=3), pg.inference.program(copy.deepcopy(net).cpu(), seed=3)
    for (name, a), b in zip(chip.state_dict().items(), on_cpu.state_dict().values(), strict=True):
        if a.is_floating_point():
            torch.testing.assert_close(a.cpu(), b, rtol=2e-5, atol=2e-6 * float(b.abs().max()), msg=name)
