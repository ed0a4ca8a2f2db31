"""Converters that are loaded from a state dict, and damaged state dicts."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import phasegrad as pg
from phasegrad.cells import DifferentialPair
from phasegrad.crossbar import Dac, SarAdc, Wires
from phasegrad.devices import ideal_device

HARDWARE = pg.Hardware(
    cell=DifferentialPair(device=ideal_device()), rows=8, columns=8, adc=SarAdc(gain_mismatch=0.2), dac=Dac()
)


def test_the_baseline_is_read_through_the_loaded_converters() -> None:
    """These devices do not drift, so compensation must find gains of 1 with any converters."""
    net = pg.convert(nn.Sequential(nn.Linear(20, 10)), HARDWARE)
    chip = pg.inference.program(net, seed=0)
    chip.load_state_dict(net.state_dict())
    assert torch.equal(chip[0].converters.outputs, net[0].converters.outputs)
    gain = pg.inference.compensate(chip, compensation="column", seed=0)[0].devices.gain
    torch.testing.assert_close(gain, torch.ones_like(gain), rtol=1e-3, atol=0.0)


@pytest.mark.parametrize(
    ("key", "value"),
    [("0.devices.conductance", float("nan")), ("0.converters.outputs", float("inf")), ("0.devices.conductance", -1e-6)],
)
def test_a_damaged_state_dict_raises_and_changes_nothing(key: str, value: float) -> None:
    hardware = dataclasses.replace(HARDWARE, wires=Wires(word_line=1.0, bit_line=1.0))
    chip = pg.inference.program(pg.convert(nn.Sequential(nn.Linear(20, 10)), hardware), seed=0)
    before = {k: v.clone() for k, v in chip.state_dict().items()}
    damaged = {k: v.clone() for k, v in before.items()}
    damaged[key].view(-1)[3] = value
    damaged["0.weight"].zero_()
    with pytest.raises(ValueError, match=key):
        chip.load_state_dict(damaged)
    assert all(torch.equal(v, before[k]) for k, v in chip.state_dict().items())
