"""The hardware of counterparts with several matrices is that of their layers, whatever replaces it."""

from __future__ import annotations

import copy
import dataclasses
import io
from collections.abc import Callable

import pytest
import torch
from torch import nn

import phasegrad as pg
from phasegrad.devices import joshi_2020
from phasegrad.nn import analog_layers

CELL = pg.cells.SignificancePairs(device=joshi_2020(), significances=(2.0, 1.0))
HARDWARE = dataclasses.replace(pg.presets.pcm_inference(), cell=CELL)
COMPOSITES: dict[str, Callable[[], nn.Module]] = {
    "rnn": lambda: nn.RNN(4, 3),
    "lstm": lambda: nn.LSTM(4, 3, num_layers=2, bidirectional=True),
    "projected": lambda: nn.LSTM(4, 3, proj_size=2),
    "gru": lambda: nn.GRU(4, 3),
    "cell": lambda: nn.LSTMCell(4, 3),
    "attention": lambda: nn.MultiheadAttention(4, 2),
    "three inputs": lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=5),
}
every = pytest.mark.parametrize("kind", COMPOSITES)


def converted(kind: str) -> nn.Module:
    torch.manual_seed(0)
    net = pg.convert(nn.Sequential(COMPOSITES[kind]()), HARDWARE)
    for layer in analog_layers(net).values():
        layer.ranges_calibrated = True
    return net


@every
def test_it_is_that_of_every_layer(kind: str) -> None:
    net = converted(kind)
    assert net[0].hardware == HARDWARE
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    for other in (copy.deepcopy(net), torch.load(file, weights_only=False), pg.inference.program(net, seed=0)):
        assert other[0].hardware == HARDWARE


@every
def test_optimised_splits_are_seen(kind: str) -> None:
    net = converted(kind)
    optimised = pg.inference.optimise_splits(net, times=(0.0,), iterations=2)
    assert net[0].hardware == HARDWARE
    found = {layer.hardware for layer in analog_layers(optimised).values()}
    assert found != {HARDWARE}
    if len(found) == 1:
        assert optimised[0].hardware in found
    else:
        with pytest.raises(ValueError, match=r"different hardware, so it has no hardware of its own; read hardware of"):
            _ = optimised[0].hardware
    chip = pg.inference.program(optimised, seed=0)
    assert {layer.hardware for layer in analog_layers(chip).values()} == found


@every
def test_noiseless_nets_and_design_maps_are_seen(kind: str) -> None:
    net, seen = converted(kind), []
    quiet = pg.inference.noiseless(net)[0].hardware
    assert quiet.output_noise == quiet.read_noise == 0.0

    def look(chip: nn.Module) -> float:
        seen.append(chip[0].hardware.cell.device)
        return 0.0

    axes = {"noise": (1.0,), "drift": (0.0, 1.0), "times": (1.0,), "chips": 1}
    pg.inference.design_map(net, look, progress=False, **axes)
    assert [device.nu_mean == CELL.device.nu_mean for device in seen] == [False, True]


def test_other_objects_are_refused() -> None:
    with pytest.raises(TypeError, match="hardware = None"):
        pg.nn.AnalogLSTM(2, 2, hardware=None)  # type: ignore[arg-type]
