"""Shared parts of the integration examples: a subset of MNIST, a small network, and its accuracy after a year."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import phasegrad as pg

sys.path.insert(0, str(Path(__file__).parents[1]))
from _data import mnist

YEAR = 3.15e7


def training_images(number: int) -> TensorDataset:
    """The first training images."""
    data = mnist()
    return TensorDataset(_pixels(data.train_images[:number]), data.train_labels[:number])


def _pixels(images: Tensor) -> Tensor:
    return images.flatten(1).float() / 255.0


def network() -> nn.Module:
    """A small network, converted to analog hardware."""
    return pg.convert(nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10)), pg.presets.pcm_inference())


@torch.no_grad()
def a_year_later(net: nn.Module, number: int = 2000) -> float:
    """Test accuracy of a drift-compensated chip, a year after programming."""
    data = mnist()
    old = pg.inference.compensate(pg.inference.age(pg.inference.program(net, seed=0), seconds=YEAR), seed=0)
    return float((old(_pixels(data.test_images[:number])).argmax(1) == data.test_labels[:number]).float().mean())
