"""Frozen parameters stay frozen from conversion to chips and back, and trainable ones stay trainable."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.crossbar import Adc, LearnedRange

PCM = pg.presets.pcm_inference()
LEARNED = replace(PCM, adc=Adc(range=LearnedRange(start=10.0)))
MEMORY = pg.presets.soft_bounds_training()

MODELS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(6, 6),
    "convolution": lambda: nn.Conv1d(6, 6, 1),
    "transposed": lambda: nn.ConvTranspose1d(6, 6, 1),
    "lstm": lambda: nn.LSTM(6, 6),
    "gru cell": lambda: nn.GRUCell(6, 6),
    "attention": lambda: nn.MultiheadAttention(6, 2),
}


def flags(net: nn.Module) -> dict[str, bool]:
    return {name: p.requires_grad for name, p in net.named_parameters()}


def freeze(kind: str, model: nn.Module) -> nn.Module:
    """Freeze all parameters, none, the matrices or the vectors."""
    for parameter in model.parameters():
        matrix = parameter.dim() > 1
        parameter.requires_grad_({"all": False, "none": True, "weights": not matrix, "biases": matrix}[kind])
    return model


@pytest.mark.parametrize("hardware", [PCM, LEARNED, MEMORY], ids=["pcm", "learned adc", "in memory"])
@pytest.mark.parametrize("model", MODELS)
def test_a_frozen_layer_gets_no_trainable_parameter(model: str, hardware: pg.Hardware) -> None:
    digital = freeze("all", MODELS[model]())
    net = pg.convert(digital, hardware)
    assert not any(flags(net).values())
    assert flags(pg.to_digital(net)) == flags(digital)


@pytest.mark.parametrize("kind", ["all", "none", "weights", "biases"])
@pytest.mark.parametrize("model", MODELS)
def test_conversion_and_back_keep_each_flag(model: str, kind: str) -> None:
    digital = freeze(kind, MODELS[model]())
    for hardware in (PCM, MEMORY):
        assert flags(pg.to_digital(pg.convert(digital, hardware))) == flags(digital)


def aged(chip: nn.Module) -> nn.Module:
    return pg.inference.compensate(pg.inference.age(chip, seconds=60.0), seed=0)


def stored(chip: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(chip, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


VERBS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "programmed": lambda chip: chip,
    "aged and compensated": aged,
    "copied": copy.deepcopy,
    "pickled": lambda chip: pickle.loads(pickle.dumps(chip)),
    "saved": stored,
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", ["all", "none", "weights", "biases"])
@pytest.mark.parametrize("model", ["linear", "lstm", "attention"])
def test_chips_give_each_flag_back(model: str, kind: str, verb: str) -> None:
    digital = freeze(kind, MODELS[model]())
    chip = VERBS[verb](pg.inference.program(pg.convert(digital, PCM), seed=0))
    assert not any(required for name, required in flags(chip).items() if name.endswith(".weight") or name == "weight")
    assert flags(pg.to_digital(chip)) == flags(digital)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("hardware", [PCM, MEMORY], ids=["programmed", "in memory"])
def test_loading_thaws_nothing(hardware: pg.Hardware, assign: bool) -> None:
    model = nn.Sequential(freeze("all", nn.Linear(6, 6)), nn.Linear(6, 6))
    trained = pg.convert(model, hardware)
    chip = pg.inference.program(trained, seed=0) if hardware is PCM else trained
    for state in (chip.state_dict(), nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)).state_dict()):
        fresh = pg.convert(model, hardware)
        fresh.load_state_dict(dict(state), assign=assign)
        assert flags(pg.to_digital(fresh)) == flags(model)
        chip.load_state_dict(dict(state), assign=assign)
        assert flags(pg.to_digital(chip)) == flags(model)


def test_tied_weights_on_one_array_keep_their_flag() -> None:
    for frozen in (False, True):
        model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
        model[1].weight = model[0].weight
        model[0].weight.requires_grad_(not frozen)
        back = pg.to_digital(pg.inference.program(pg.convert(model, PCM), seed=0))
        assert back[0].weight is back[1].weight
        assert back[0].weight.requires_grad is not frozen


def test_calibration_recipe_and_training_thaw_nothing() -> None:
    model = nn.Sequential(freeze("all", nn.Linear(6, 6)), nn.ReLU(), nn.Linear(6, 3))
    net = pg.convert(model, PCM)
    before: dict[str, Any] = {n: p.detach().clone() for n, p in net[0].named_parameters() if n != "input_range"}
    data: list[tuple[Tensor, Tensor]] = [(torch.randn(32, 6), torch.randint(3, (32,))) for _ in range(4)]
    pg.hwa.calibrate(net, data)
    assert net[0].input_range.item() != 3.0
    calibrated = net[0].input_range.item()
    pg.hwa.fine_tune(net, data, epochs=2, calibration_batches=0, progress=False)
    assert not any(flags(net[0]).values())
    assert net[0].input_range.item() == calibrated
    assert all(torch.equal(p, before[n]) for n, p in net[0].named_parameters() if n in before)
