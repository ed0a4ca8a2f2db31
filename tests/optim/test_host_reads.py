"""A training step in the memory reads no tensor on the host: on CUDA, each such read waits for the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from tests.test_host_reads import NoHostReads
from torch import nn

import phasegrad as pg

P = pg.presets
ASKING = ("stores.known_numbers", "optim.base", "optim.fast_array", "optim.mixed_precision")
"""Modules that treat a tensor otherwise where the host would wait for it."""

OPTIMIZERS: dict[str, tuple[Callable[[], pg.Hardware], Callable[[Iterable[Any]], torch.optim.Optimizer]]] = {
    "soft bounds": (P.soft_bounds_training, lambda p: pg.optim.AnalogSGD(p, lr=0.01)),
    "pair that drifts": (P.pcm_pair_training, lambda p: pg.optim.AnalogSGD(p, lr=0.01)),
    "several pairs": (P.multi_memristive_training, lambda p: pg.optim.AnalogSGD(p, lr=0.01)),
    "capacitor": (P.pcm_capacitor_training, lambda p: pg.optim.AnalogSGD(p, lr=0.01)),
    "mixed precision": (P.pcm_pair_training, lambda p: pg.optim.MixedPrecision(p, lr=0.01)),
    "Tiki-Taka": (P.tiki_taka_training, lambda p: pg.optim.TikiTaka(p, lr=0.01, fast_lr=0.1)),
    "Tiki-Taka v2": (P.tiki_taka_training, lambda p: pg.optim.TikiTakaV2(p, lr=0.01, fast_lr=0.1)),
}


@pytest.fixture
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ASKING:
        monkeypatch.setattr(f"phasegrad.{module}.waits", lambda tensor: True)


@pytest.mark.usefixtures("_as_on_a_gpu")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_in_the_memory_reads_nothing_on_the_host(name: str) -> None:
    preset, make = OPTIMIZERS[name]
    net = pg.convert(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), preset())
    optimizer, x = make(net.parameters()), torch.randn(4, 6)
    for step in range(4):
        if step == 0:  # counters are read once
            net(x).square().sum().backward()
            optimizer.step()
            continue
        with NoHostReads():
            net(x).square().sum().backward()
            optimizer.step()
