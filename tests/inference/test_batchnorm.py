"""Re-estimation of batch-norm statistics on a chip."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

import phasegrad as pg


def chip() -> nn.Module:
    """A net with batch norms on devices that drift and are read without noise."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4), nn.BatchNorm1d(4))
    for _ in range(50):
        model(torch.randn(64, 8))
    cell = pg.cells.DifferentialPair(device=dataclasses.replace(pg.devices.joshi_2020(), read_noise=None))
    return pg.inference.program(pg.convert(model.eval(), pg.Hardware(cell=cell, rows=512, columns=512)), seed=0)


def test_statistics_become_those_of_the_present_outputs() -> None:
    old = pg.inference.age(chip(), seconds=3.15e7)
    x = [torch.randn(500, 8) for _ in range(4)]
    adapted = pg.inference.reestimate_batchnorm(old, x)
    with torch.no_grad():
        outputs = torch.cat([old[0](part) for part in x])
    torch.testing.assert_close(adapted[1].running_mean, outputs.mean(0))
    within = torch.stack([part.var(0) for part in outputs.split(500)]).mean(0)  # average variance of the batches
    torch.testing.assert_close(adapted[1].running_var, within)
    # Weights decay as about t^-0.05: after a year the variance of the outputs is less than half.
    assert float(old[1].running_var.mean() / adapted[1].running_var.mean()) > 2.0


def test_the_chip_is_not_modified_and_the_copy_is_a_chip() -> None:
    old = pg.inference.age(chip(), seconds=3.15e7)
    before = copy.deepcopy(old.state_dict())
    adapted = pg.inference.reestimate_batchnorm(old, [torch.randn(32, 8)])
    assert all(torch.equal(a, b) for a, b in zip(before.values(), old.state_dict().values(), strict=True))
    assert not any(m.training for m in adapted.modules())
    assert adapted[1].momentum == 0.1
    assert torch.equal(adapted[0].devices.conductance, old[0].devices.conductance)


def test_batches_have_equal_weight_and_a_maximum_number() -> None:
    net = nn.Sequential(nn.BatchNorm1d(1))
    adapted = pg.inference.reestimate_batchnorm(net, [torch.zeros(4, 1), torch.ones(4, 1), torch.full((4, 1), 9.0)], 2)
    assert adapted[0].running_mean.item() == pytest.approx(0.5)


def test_batches_of_another_form() -> None:
    adapted = pg.inference.reestimate_batchnorm(
        nn.Sequential(nn.BatchNorm1d(1)), [{"x": torch.ones(4, 1)}], forward=lambda net, batch: net(batch["x"])
    )
    assert adapted[0].running_mean.item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("net", "loader", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2)), [torch.zeros(2, 2)], "no batch norm"),
        (nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False)), [torch.zeros(2, 2)], "no batch norm"),
        (nn.Sequential(nn.BatchNorm1d(2)), [], "no batch"),
    ],
)
def test_impossible_estimates_raise(net: nn.Module, loader: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pg.inference.reestimate_batchnorm(net, loader)
