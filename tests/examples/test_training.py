"""The training loop of the examples resumes after any step with the same result."""

from __future__ import annotations

import importlib
import itertools
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import phasegrad as pg

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
_training = importlib.import_module("_training")


def trained(folder: Path, stop_at: int | None = None, every: float = 60.0) -> nn.Module:
    """A small net, trained for three epochs of eight steps with random data and layers."""
    torch.manual_seed(0)
    x = torch.randn(70, 8)
    y = (x.sum(1) > 0).long()
    net = pg.convert(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)), pg.presets.pcm_inference())
    pg.hwa.calibrate(net, [x])
    loader = _training.batches(70, 8, 1, lambda picked: (x[picked] + 0.1 * torch.randn(len(picked), 8), y[picked]))
    optimizer = torch.optim.SGD(net.parameters(), 0.1, 0.9)
    seen = 0

    def loss(net: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        nonlocal seen
        if seen == stop_at:
            raise KeyboardInterrupt
        seen += 1
        return F.cross_entropy(net(batch[0]), batch[1])

    schedule = _training.one_cycle(optimizer, 24, 0.2)
    options = {"epochs": 3, "folder": folder, "label": "", "progress": False, "every": every, "norm": 1.0}
    seconds = _training.fit(net, loader, loss, optimizer, schedule, **options)
    assert seconds > 0
    return net


@pytest.mark.parametrize("stop_at", [0, 1, 7, 8, 13, 23])
def test_resumes_after_an_interruption(tmp_path: Path, stop_at: int) -> None:
    whole = trained(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", stop_at, every=0.0)
    resumed = trained(tmp_path / "cut", every=0.0)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)


def test_a_finished_training_is_not_run_again(tmp_path: Path) -> None:
    first = trained(tmp_path)
    again = trained(tmp_path, stop_at=0)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_rates_rise_and_fall() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 2.0)
    schedule = _training.one_cycle(optimizer, 10, 0.2)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:3] == [1.0, 2.0, 2.0]
    assert all(b < a for a, b in itertools.pairwise(rates[2:]))
    assert 0.0 < rates[-1] < 0.1
