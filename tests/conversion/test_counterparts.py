"""Counterparts that users register, and weights tied between modules of different types."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.conversion import register_counterpart
from phasegrad.nn import AnalogLinear, analog_layers

IDEAL = pg.presets.ideal_inference()
NOISY = pg.presets.pcm_inference()


class Gated(nn.Module):
    """A custom module with two matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.value = nn.Parameter(torch.randn(4, 4)), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.gate).sigmoid() * self.value(x)


class AnalogGated(nn.Module):
    """The counterpart of ``Gated``, with a ``to_digital`` method."""

    def __init__(self, digital: Gated, hardware: pg.Hardware) -> None:
        super().__init__()
        gate = nn.Linear(4, 4, bias=False)
        gate.weight = digital.gate
        self.gate, self.value = (
            AnalogLinear.from_digital(gate, hardware),
            AnalogLinear.from_digital(digital.value, hardware),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(x).sigmoid() * self.value(x)

    def to_digital(self) -> nn.Module:
        digital = Gated()
        digital.gate, digital.value = self.gate.to_digital().weight, self.value.to_digital()
        return digital


def test_a_registered_counterpart_converts_both_ways(tmp_path: Path) -> None:
    model, x = nn.Sequential(Gated(), nn.Linear(4, 2)), torch.randn(3, 4)
    with register_counterpart(Gated, AnalogGated):
        net = pg.convert(model, IDEAL)
        loaded = pg.convert(model, IDEAL).eval()
    assert set(analog_layers(net)) == {"0.gate", "0.value", "1"}
    torch.testing.assert_close(net(x), model(x), rtol=1e-5, atol=1e-5)
    for copied in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(copied(x), model(x), rtol=1e-5, atol=1e-5)
    back = pg.to_digital(net)
    assert type(back[0]) is Gated
    torch.testing.assert_close(back(x), model(x), rtol=1e-5, atol=1e-5)
    chip = pg.inference.age(pg.inference.program(net, seed=0), 100.0)
    torch.save(chip.state_dict(), tmp_path / "chip.pt")
    loaded.load_state_dict(torch.load(tmp_path / "chip.pt", weights_only=True))
    assert torch.equal(loaded(x), chip(x))
    assert pg.conversion.left_digital(net) == {}


def test_a_block_or_its_handle_ends_a_registration_and_the_last_one_applies() -> None:
    model = nn.Sequential(Gated(), nn.Linear(4, 2))
    handle = register_counterpart(Gated, AnalogGated)
    with register_counterpart(Gated, lambda d, h: nn.Sequential(AnalogLinear.from_digital(d.value, h))):
        assert type(pg.convert(model, IDEAL)[0]) is nn.Sequential
    assert type(pg.convert(model, IDEAL)[0]) is AnalogGated
    handle.remove()
    assert type(pg.convert(model, IDEAL)[0]) is Gated
    assert pg.conversion.left_digital(pg.convert(model, IDEAL))["0"] == "no analog counterpart of Gated"


def test_a_subclass_of_a_registered_type_stays_digital_and_is_reported() -> None:
    class Other(Gated):
        pass

    with register_counterpart(Gated, AnalogGated):
        net = pg.convert(nn.Sequential(Other()), IDEAL)
    assert pg.conversion.left_digital(net)["0"] == "Other is a subclass of Gated and may compute something else"
    assert set(analog_layers(net)) == {"0.value"}


def test_a_counterpart_without_to_digital_is_converted_back_layer_by_layer() -> None:
    class Plain(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    with register_counterpart(nn.Linear, lambda d, h: Plain(AnalogLinear.from_digital(d, h))):
        net = pg.convert(nn.Sequential(nn.Linear(4, 4)), IDEAL)
    back = pg.to_digital(net)
    assert type(back[0]) is Plain
    assert type(back[0].layer) is nn.Linear


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((nn.Linear(2, 2), AnalogGated), "module_type = Linear"),
        ((int, AnalogGated), "module_type = <class 'int'>"),
        ((Gated, 3), "make = 3; it must be a function"),
    ],
)
def test_arguments_of_the_wrong_type_raise(arguments: Any, error: str) -> None:
    with pytest.raises(TypeError, match=error):
        register_counterpart(*arguments)


def test_a_counterpart_without_analog_layers_raises() -> None:
    model = nn.Sequential(Gated())
    with (
        register_counterpart(Gated, lambda digital, hardware: nn.Identity()),
        pytest.raises(TypeError, match="registered for Gated is a Identity without an analog layer"),
    ):
        pg.convert(model, IDEAL)
    assert type(model[0]) is Gated


class Language(nn.Module):
    """A head tied to the embedding, as in GPT-2, and a linear layer tied to a projection of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(11, 8), nn.Linear(8, 11, bias=False)
        self.attention, self.mix = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 8)
        self.head.weight, self.mix.weight = self.embedding.weight, self.attention.out_proj.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        return self.head(self.mix(x + self.attention(x, x, x)[0]))


def test_ties_between_module_types_survive_conversion_programming_and_checkpoints(tmp_path: Path) -> None:
    model, tokens = Language(), torch.randint(11, (2, 5))
    net = pg.convert(model, IDEAL)
    assert net.head.weight is net.embedding.weight
    assert net.mix.weight is net.attention.out_proj.weight
    assert len(list(net.parameters())) == len(list(model.parameters()))
    torch.testing.assert_close(net(tokens), model(tokens), rtol=1e-5, atol=1e-5)
    for module in (model, net):
        module(tokens).square().sum().backward()
    torch.testing.assert_close(net.mix.weight.grad, model.mix.weight.grad, rtol=1e-4, atol=1e-4)
    chip = pg.inference.age(pg.inference.program(pg.convert(model, NOISY), seed=0), 1e6)
    assert chip.mix.devices is chip.attention.out_proj.devices
    torch.save(chip.state_dict(), tmp_path / "chip.pt")
    loaded = pg.convert(model, NOISY).eval()
    loaded.load_state_dict(torch.load(tmp_path / "chip.pt", weights_only=True))
    assert loaded.mix.devices is loaded.attention.out_proj.devices
    assert torch.equal(loaded.embedding.weight, model.embedding.weight)  # digital, so it does not drift
    y = []
    for module in (chip, loaded):
        torch.manual_seed(0)
        y.append(module(tokens))
    assert torch.equal(*y)
    back = pg.to_digital(net)
    assert back.head.weight is back.embedding.weight
    assert back.mix.weight is back.attention.out_proj.weight


def test_to_digital_clips_tied_weights_once() -> None:
    model = Language()
    net = pg.convert(model, IDEAL)
    pg.hwa.Recipe(noise=None, clip_sigma=1.0).apply(net)
    expected = net.mix.store.mean_matrix().weight
    back = pg.to_digital(net)
    assert torch.equal(back.mix.weight, expected)
