"""Nets on devices, ways to write their weights, and ways to use them, for the tests of writes."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tests.stores.test_stores import CELLS
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.crossbar import Wires
from phasegrad.devices import ideal_device

WRITTEN = "the weight was written, but it is a copy"
BASE = pg.presets.pcm_inference()
CHIPS = {
    **{name: replace(BASE, cell=replace(cell, device=ideal_device())) for name, cell in CELLS.items()},
    "noisy": BASE,
    "wires": replace(BASE, wires=Wires(word_line=1.0, bit_line=1.0)),
    "tile scale": replace(BASE, scale="tile"),
}
MEMORIES = {
    "constant": pg.presets.constant_step_training(),
    "soft bounds": pg.presets.soft_bounds_training(),
    "pairs": pg.presets.pcm_pair_training(),
    "many pairs": pg.presets.multi_memristive_training(),
    "capacitor": pg.presets.pcm_capacitor_training(),
    "two arrays": pg.presets.tiki_taka_training(),
}
HARDWARE = CHIPS | MEMORIES


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 4))


def stored(hardware: pg.Hardware, digital: nn.Module | None = None) -> nn.Module:
    """A net whose weights live on devices."""
    net = pg.convert(model() if digital is None else digital, hardware)
    return net if hardware.pulses is not None else pg.inference.program(net, seed=0)


def x(*size: int) -> Tensor:
    return torch.randn(size or (5, 12), generator=torch.Generator().manual_seed(1))


def new_weight(layer: nn.Module) -> Tensor:
    """Other values of the size of the weight's."""
    values = torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(2)) - 0.5
    return 0.3 * values


def error(layer: Any, wanted: Tensor) -> float:
    """The rms error of the stored weights, in units of the largest."""
    found = layer.layout.weight(layer.devices.logical_weight(), wanted.shape)
    return float((found - wanted).square().mean().sqrt() / wanted.abs().max())


def assert_programmed(layer: Any, wanted: Tensor, tolerance: float = 0.12) -> None:
    """The devices store the weight, up to their resolution and errors, and the parameter is theirs again."""
    assert error(layer, wanted) < tolerance
    assert layer.weight.devices is layer.devices
    found = layer.layout.weight(layer.devices.logical_weight(), wanted.shape)
    torch.testing.assert_close(layer.weight.detach(), found, rtol=1e-5, atol=1e-6)


# Writes, each with the values that it leaves.


def fill_in_place(layer: nn.Module) -> Tensor:
    with torch.no_grad():
        layer.weight.copy_(new_weight(layer))
    return new_weight(layer)


def add_to_data(layer: nn.Module) -> Tensor:
    wanted = layer.weight.data + new_weight(layer)
    layer.weight.data += new_weight(layer)
    return wanted


def copy_to_data(layer: nn.Module) -> Tensor:
    layer.weight.data.copy_(new_weight(layer))
    return new_weight(layer)


def set_data(layer: nn.Module) -> Tensor:
    layer.weight.data = new_weight(layer)
    return new_weight(layer)


def initialise(layer: nn.Module) -> Tensor:
    nn.init.constant_(layer.weight, 0.05)
    return torch.full(layer.weight.shape, 0.05)


def fused(layer: nn.Module) -> Tensor:
    wanted = layer.weight.detach().clone() + 0.1
    with torch.no_grad():
        torch._foreach_add_([layer.weight], 0.1)
    return wanted


def through_a_view(layer: nn.Module) -> Tensor:
    wanted = layer.weight.detach().clone()
    wanted[0] = 0.2
    layer.weight.detach()[0] = 0.2
    return wanted


def through_numpy(layer: nn.Module) -> Tensor:
    layer.weight.detach().numpy()[:] = new_weight(layer).numpy()
    return new_weight(layer)


def as_a_vector(layer: nn.Module) -> Tensor:
    nn.utils.vector_to_parameters(new_weight(layer).flatten(), [layer.weight])
    return new_weight(layer)


def assign(layer: nn.Module) -> Tensor:
    layer.weight = nn.Parameter(new_weight(layer))
    return new_weight(layer)


WRITES = [
    fill_in_place, add_to_data, copy_to_data, set_data, initialise, fused, through_a_view, through_numpy, as_a_vector,
    assign,
]  # fmt: skip


# Uses of a net other than a forward pass. Each returns the net whose devices must store what was written.


def save(net: nn.Module) -> nn.Module:
    torch.save(net.state_dict(), io.BytesIO())
    return net


def checkpoint(net: nn.Module, folder: Path) -> nn.Module:
    pg.checkpoint.save(folder / "run.pt", net=net)
    return net


def estimate_batchnorm(net: nn.Module) -> nn.Module:
    pg.inference.reestimate_batchnorm(nn.Sequential(net, nn.BatchNorm1d(4)), [x()])
    return net


def make_digital(net: nn.Module) -> nn.Module:
    digital = pg.to_digital(net)
    torch.testing.assert_close(digital[0].weight.detach(), net[0].weight.detach())
    return net


def make_noiseless(net: nn.Module) -> nn.Module:
    pg.inference.noiseless(net)
    return net


def read(net: nn.Module) -> nn.Module:
    net[0].read()
    return net


def move(net: nn.Module) -> nn.Module:
    return net.to("cpu")


def grow_old(net: nn.Module) -> nn.Module:
    old = pg.inference.age(net, seconds=0.0)
    assert torch.equal(old[0].devices.conductance, net[0].devices.conductance)  # the same chip
    return old


def correct(net: nn.Module) -> nn.Module:
    return pg.inference.compensate(net, seed=0)


def train(net: nn.Module, steps: int) -> None:
    fast = net[0].devices.fast
    kind = pg.optim.TikiTakaV2 if fast is not None and net[0].hardware.fast.transfer is None else pg.optim.AnalogSGD
    optimizer = kind(net.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        net(x()).square().sum().backward()
        optimizer.step()
    net.zero_grad()


class LanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.body = nn.Embedding(50, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 50, bias=False)
        self.tie_weights()

    def tie_weights(self) -> None:
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(self.embedding(tokens))))


class TiedAnalog(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 6)
        self.last.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.first(inputs).tanh())
