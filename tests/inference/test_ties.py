"""Weights tied to digital modules, and independent noise of calibration reads."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import phasegrad as pg


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(tokens))


def test_a_digital_module_keeps_its_tied_weight() -> None:
    net = pg.convert(Tied(), pg.presets.pcm_inference())
    assert net.head.weight is net.embedding.weight
    old = pg.inference.age(pg.inference.program(net, seed=0), seconds=1e7)
    assert torch.equal(old.embedding.weight, net.embedding.weight)
    assert old.embedding.weight.requires_grad
    assert (old.head.weight - old.embedding.weight).abs().max() > 0.1


@pytest.mark.parametrize("seed", [0, 7])
def test_calibration_reads_are_independent_under_equal_seeds(seed: int) -> None:
    net = pg.convert(nn.Linear(64, 300), pg.presets.pcm_inference())
    chip = pg.inference.program(net, seed=seed)
    now = pg.inference.compensate(chip, seed=seed, compensation="column").devices.gain
    later = pg.inference.age(chip, seconds=1e-6)
    then = pg.inference.compensate(later, seed=seed, compensation="column").devices.gain
    # The relative error of a column's sum of 64 noisy magnitudes is about 0.04 / (0.5 sqrt(64)) = 1 %.
    for gain in (now, then, now / then):
        assert 0.003 < gain.std().item() < 0.03
