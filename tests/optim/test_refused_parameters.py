"""Pulsed optimizers refuse parameters of which they could pulse none."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

import phasegrad as pg

OPTIMIZERS = [
    pg.optim.AnalogSGD, pg.optim.MixedPrecision, pg.optim.TikiTaka, pg.optim.TikiTakaV2, pg.optim.ChoppedTikiTakaV2,
    pg.optim.AGAD,
]  # fmt: skip


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("holds", ["the float model", "a net trained digitally", "digital parameters of the net"])
def test_parameters_without_an_in_memory_weight_are_refused(holds: str, make: Any) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
    net = pg.convert(model, pg.presets.soft_bounds_training())
    parameters = {
        "the float model": [*model.parameters()],
        "a net trained digitally": [*pg.convert(model, pg.presets.pcm_inference()).parameters()],
        "digital parameters of the net": [net[0].bias, *net[1].parameters()],
    }[holds]
    with pytest.raises(ValueError, match=rf"{make.__name__}: none of the {len(parameters)} .*nothing would be pulsed"):
        make(parameters, lr=0.1)


def test_digital_parameters_and_groups_without_weights_are_accepted_beside_them() -> None:
    net = pg.convert(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)), pg.presets.soft_bounds_training())
    pg.optim.AnalogSGD([{"params": [*net[1].parameters()]}, {"params": [net[0].weight]}], lr=0.1)
    optimizer = pg.optim.AnalogSGD([net[0].weight], lr=0.1)
    optimizer.add_param_group({"params": [*net[1].parameters()]})
    net[0].weight.requires_grad_(False)  # may be thawed later
    pg.optim.AnalogSGD(net.parameters(), lr=0.1)


def test_pulses_that_no_transfer_would_carry_to_the_weight_are_refused() -> None:
    net = pg.convert(nn.Sequential(nn.Linear(8, 4)), pg.presets.tiki_taka_training())
    with pytest.raises(ValueError, match=r"AnalogSGD: fast = .*has no transfer.*Use TikiTaka"):
        pg.optim.AnalogSGD(net.parameters(), lr=0.1)
