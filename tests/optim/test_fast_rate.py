"""The automatic learning rate of fast arrays: a running mean over steps that a spike of the gradients hardly moves."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg

FAMILY = [pg.optim.TikiTaka, pg.optim.TikiTakaV2, pg.optim.ChoppedTikiTakaV2, pg.optim.AGAD]
AVERAGED = 0.05  # weight of a step in the running mean


def train(algorithm: Any, sizes: list[float], lr: float = 1e-3) -> tuple[list[float], list[Tensor]]:
    """Train a layer whose gradients have the given sizes; return the running means and weights after each step."""
    torch.manual_seed(0)
    net = pg.convert(nn.Linear(6, 4), pg.presets.tiki_taka_training())
    optimizer, means, weights = algorithm(net.parameters(), lr=lr), [], []
    x = torch.ones(8, 6)
    for size in sizes:
        optimizer.zero_grad()
        (net(x).sum() * size).backward()
        optimizer.step()
        means.append(optimizer.state[net.weight]["strength"])
        weights.append(net.weight.detach().clone())
    return means, weights


@pytest.mark.parametrize("algorithm", FAMILY)
@pytest.mark.parametrize("spike", [100.0, 1e20])
def test_a_spike_at_most_doubles_the_mean_and_decays_with_it(algorithm: Any, spike: float) -> None:
    means, _ = train(algorithm, [1.0] * 5 + [spike] + [1.0] * 20)
    assert means[4] == pytest.approx(1.0)
    for n, mean in enumerate(means[5:]):
        assert mean == pytest.approx(1.0 + (1.0 - AVERAGED) ** n, rel=1e-5)


@pytest.mark.parametrize("algorithm", FAMILY)
def test_a_spike_hardly_changes_what_is_learned(algorithm: Any) -> None:
    """After the spike the array still moves as fast as without it: by at least half, since the rate is halved."""
    _, with_spike = train(algorithm, [1.0] * 5 + [1e6] + [1.0] * 15)
    _, without = train(algorithm, [1.0] * 21)
    moved, expected = (float((w[-1] - w[4]).mean()) for w in (with_spike, without))
    assert expected < 0.0
    assert 0.5 < moved / expected < 2.0


def test_a_lasting_change_is_followed() -> None:
    up, _ = train(pg.optim.TikiTakaV2, [1.0] * 3 + [1000.0] * 150, lr=1e-6)
    assert up[-1] == pytest.approx(1000.0, rel=0.01)
    for before, after in itertools.pairwise(up[3:]):
        assert after == pytest.approx(min(before + AVERAGED * (1000.0 - before), 2.0 * before), rel=1e-5)
    down, _ = train(pg.optim.TikiTakaV2, [1.0] * 3 + [0.001] * 100, lr=1e-6)
    assert down[-1] == pytest.approx(0.001 + 0.999 * (1.0 - AVERAGED) ** 100, rel=1e-4)


def test_gradients_that_vanish_for_some_steps_set_no_rate_of_their_own() -> None:
    means, _ = train(pg.optim.TikiTakaV2, [0.0, 0.0, 2.0, 2.0])
    assert means[:2] == [0.0, 0.0]
    assert means[2:] == pytest.approx([2.0, 2.0])
    assert all(map(math.isfinite, means))
