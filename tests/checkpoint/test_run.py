"""A run is restored to the bit, and a file that does not fit changes nothing."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.contracts.op import same_bits
from torch import nn

import phasegrad as pg

OPTIMIZERS: dict[str, tuple[Callable[[], pg.Hardware], Callable[..., torch.optim.Optimizer]]] = {
    "AnalogSGD": (pg.presets.soft_bounds_training, pg.optim.AnalogSGD),
    "MixedPrecision": (pg.presets.pcm_pair_training, pg.optim.MixedPrecision),
    "TikiTaka": (pg.presets.tiki_taka_training, pg.optim.TikiTaka),
    "TikiTakaV2": (pg.presets.tiki_taka_training, pg.optim.TikiTakaV2),
    "ChoppedTikiTakaV2": (lambda: pg.presets.tiki_taka_training(gain=0.0), pg.optim.ChoppedTikiTakaV2),
    "AGAD": (lambda: pg.presets.tiki_taka_training(gain=0.0), pg.optim.AGAD),
}


def model(inputs: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 3), nn.Tanh(), nn.Linear(3, 2))


def net(hardware: pg.Hardware | None = None) -> nn.Module:
    return pg.convert(model(), hardware or pg.presets.pcm_inference())


def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    net(torch.randn(6, 4)).square().sum().backward()
    optimizer.step()


def states(*parts: Any) -> list[Any]:
    return copy.deepcopy([dict(part.state_dict()) for part in parts])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_in_memory_training_resumes_to_the_bit(name: str, tmp_path: Path) -> None:
    hardware, make = OPTIMIZERS[name]
    runs = []
    for _ in range(2):
        made = net(hardware())
        runs.append((made, make(made.parameters(), lr=0.1, momentum=0.9)))
    for _ in range(4):
        step(*runs[0])
    pg.checkpoint.save(tmp_path / "run.pt", net=runs[0][0], optimizer=runs[0][1])
    for _ in range(4):
        step(*runs[0])
    drawn = torch.get_rng_state()
    pg.checkpoint.load(tmp_path / "run.pt", net=runs[1][0], optimizer=runs[1][1])
    for _ in range(4):
        step(*runs[1])
    assert same_bits(states(*runs[0]), states(*runs[1]))
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_chip_keeps_its_devices_and_its_age(tmp_path: Path) -> None:
    chip = pg.inference.compensate(pg.inference.age(pg.inference.program(net(), seed=0), seconds=3600.0), seed=1)
    pg.checkpoint.save(tmp_path / "chip.pt", net=chip)
    x, other = torch.randn(5, 4), net().eval()
    pg.checkpoint.load(tmp_path / "chip.pt", net=other)
    stream = torch.get_rng_state()
    y = chip(x)
    torch.set_rng_state(stream)
    assert torch.equal(other(x), y)
    assert float(other[0].devices.clock) == 3600.0
    older = [pg.inference.age(one, seconds=1e6) for one in (chip, other)]
    assert same_bits(*states(*older))


def test_scalers_and_schedulers_are_saved_and_loaded(tmp_path: Path) -> None:
    made = net()
    optimizer = torch.optim.Adam(made.parameters())
    schedulers = [torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=9)]
    schedulers += [torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5])]
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    pg.checkpoint.save(tmp_path / "a", scaler=scaler, one=schedulers[0], two=schedulers[1], history={"loss": [1.5]})
    other = torch.amp.GradScaler("cpu", init_scale=2.0)
    found = pg.checkpoint.load(tmp_path / "a", scaler=other, one=schedulers[0], two=schedulers[1])
    assert found == {"history": {"loss": [1.5]}}
    assert other.get_scale() == 8.0


def test_every_global_random_stream_is_restored(tmp_path: Path) -> None:
    def draw() -> tuple[float, float, float]:
        return float(torch.rand(())), float(np.random.normal()), random.gauss(0.0, 1.0)  # noqa: NPY002

    draw()  # numpy and Python store the second of a pair of normals
    pg.checkpoint.save(tmp_path / "a", step=1)
    first = draw()
    pg.checkpoint.load(tmp_path / "a")
    assert draw() == first
    pg.checkpoint.load(tmp_path / "a", streams=False)
    assert draw() != first


def test_torch_load_reads_a_checkpoint(tmp_path: Path) -> None:
    pg.checkpoint.save(tmp_path / "a", net=net(), step=3)
    assert torch.load(tmp_path / "a", weights_only=True)["values"] == {"step": 3}


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (np.ones(3), "history is of type ndarray"),
        ({"a": [pg.hwa.History()]}, r"history\['a'\]\[0\] is of type History"),
    ],
)
def test_values_that_cannot_be_read_are_not_saved(value: Any, where: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=where):
        pg.checkpoint.save(tmp_path / "a", history=value)
    assert list(tmp_path.iterdir()) == []


def misfit(kind: str) -> tuple[dict[str, Any], str]:
    """Parts that do not fit, and the message."""
    made = net()
    optimizer: torch.optim.Optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    if kind == "hardware":
        made = net(replace(pg.presets.pcm_inference(), rows=256))
        return {"optimizer": torch.optim.SGD(made.parameters(), lr=0.1), "net": made}, "rows"
    if kind == "layers":
        made = pg.convert(nn.Sequential(*model(), nn.Linear(2, 2)), pg.presets.pcm_inference())
        return {"optimizer": optimizer, "net": made}, r"3\.weight is missing"
    if kind == "shapes":
        return {"net": pg.convert(model(5), pg.presets.pcm_inference())}, r"0\.weight has shape \[3, 4\], but \[3, 5\]"
    if kind == "groups":
        groups = [{"params": [p]} for p in made.parameters()]
        return {
            "net": made,
            "optimizer": torch.optim.SGD(groups, lr=0.1),
        }, r"its groups have \[1, 1.*\] parameters, but \["
    if kind == "order":
        optimizer = torch.optim.SGD(list(made.parameters())[::-1], lr=0.1)
        return {"net": made, "optimizer": optimizer}, "but its momentum_buffer has"
    if kind == "optimizer":
        return {"net": made, "optimizer": torch.optim.Adam(made.parameters())}, "its type is Adam, but SGD was saved"
    loader = pg.checkpoint.ResumableLoader(range(9), 2)
    return {"net": made, "optimizer": optimizer, "loader": loader}, "batch_size = 2, but 3 in the state"


@pytest.mark.parametrize("kind", ["hardware", "layers", "shapes", "groups", "order", "optimizer", "loader"])
def test_a_file_that_does_not_fit_changes_nothing(kind: str, tmp_path: Path) -> None:
    made = net()
    optimizer = torch.optim.SGD(made.parameters(), lr=0.2, momentum=0.9)
    step(made, optimizer)
    loader = pg.checkpoint.ResumableLoader(range(9), 3)
    pg.checkpoint.save(tmp_path / "a", net=made, optimizer=optimizer, loader=loader)
    parts, message = misfit(kind)
    before, stream = states(*parts.values()), torch.get_rng_state()
    with pytest.raises(ValueError, match=message):
        pg.checkpoint.load(tmp_path / "a", **parts)
    assert same_bits(before, states(*parts.values()))
    assert torch.equal(stream, torch.get_rng_state())


def test_a_part_that_was_not_saved_is_named(tmp_path: Path) -> None:
    pg.checkpoint.save(tmp_path / "a", net=net(), step=1)
    with pytest.raises(ValueError, match="contains no state of optimizer; it has states of: net"):
        pg.checkpoint.load(tmp_path / "a", optimizer=torch.optim.SGD(net().parameters(), lr=0.1))
    with pytest.raises(TypeError, match="step is of type int, which has no load_state_dict"):
        pg.checkpoint.load(tmp_path / "a", step=1)
