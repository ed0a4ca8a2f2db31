"""A state dict that cannot be loaded leaves the net unchanged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import phasegrad as pg


def net(inputs: int = 4) -> nn.Module:
    return pg.convert(nn.Sequential(nn.Linear(inputs, 3), nn.Linear(3, 2)), pg.presets.pcm_inference())


def unchanged(module: nn.Module, before: dict[str, Any]) -> bool:
    after = module.state_dict()
    return after.keys() == before.keys() and all(torch.equal(after[k], v) for k, v in before.items())


def snapshot(module: nn.Module) -> dict[str, Any]:
    return {k: v.clone() for k, v in module.state_dict().items()}


def test_devices_of_the_wrong_shape_raise_before_anything_is_copied() -> None:
    chip, other = pg.inference.program(net(), seed=0), net(5)
    before = snapshot(other)
    with pytest.raises(ValueError, match=r"devices.conductance has shape \[2, 3, 4\]; it must be \[2, 3, 5\]"):
        other.load_state_dict(chip.state_dict())
    assert unchanged(other, before)
    assert other[0].devices is None
    assert other[0].weight.requires_grad


def test_a_non_finite_weight_in_one_layer_leaves_every_layer_unprogrammed() -> None:
    chip = pg.inference.program(net(), seed=0)
    before = snapshot(chip)
    checkpoint = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).state_dict()
    checkpoint["1.weight"][0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"1.weight has non-finite values"):
        chip.load_state_dict(checkpoint)
    assert unchanged(chip, before)


def test_a_checkpoint_without_a_recipe_keeps_the_recipe_of_the_net() -> None:
    fresh, mine = net(), net()
    pg.hwa.Recipe(clip_sigma=2.0).apply(mine)
    mine.load_state_dict(fresh.state_dict())
    assert mine[0].perturbation.clip_sigma == 2.0
