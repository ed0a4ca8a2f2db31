"""Small perceptrons on MNIST for experiments on many chips: their training, conversion and test."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from _data import mnist
from _lenet import normalise
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.crossbar.converters import CalibratedRange


class Trained(NamedTuple):
    """A converted net with what it is compensated and tested with."""

    net: nn.Module
    batches: list[Tensor]
    """All training images, in batches of 250."""
    accuracy: Callable[[nn.Module], float]
    """The accuracy of a chip on test images."""
    exact: float
    """The accuracy of the float net."""


def calibrated_hardware() -> pg.Hardware:
    """The preset for inference with ADC ranges from data: its fixed range clips sums over so many pixels."""
    preset = pg.presets.pcm_inference()
    assert preset.adc is not None
    return dataclasses.replace(preset, adc=dataclasses.replace(preset.adc, range=CalibratedRange()))


def trained(
    activation: Callable[[], nn.Module], hardware: pg.Hardware, *, hidden: int = 64, layers: int = 1,
    batch_norm: bool = False, epochs: int = 4, test_images: int = 2000, seed: int = 0,
) -> Trained:  # fmt: skip
    """Train a perceptron in float, without regard to the hardware, and convert it."""
    torch.manual_seed(seed)
    data = mnist()
    sizes = [784] + [hidden] * layers
    parts: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in itertools.pairwise(sizes):
        parts += [nn.Linear(inputs, outputs), *([nn.BatchNorm1d(outputs)] if batch_norm else []), activation()]
    net = nn.Sequential(*parts, nn.Linear(hidden, 10))
    images = normalise(data.train_images)
    _fit(net, images, data.train_labels, epochs)
    test = normalise(data.test_images[:test_images]), data.test_labels[:test_images]

    @torch.no_grad()
    def accuracy(chip: nn.Module) -> float:
        return float((chip(test[0]).argmax(1) == test[1]).float().mean())

    converted = pg.convert(net.eval(), hardware)
    batches = list(images.split(250))
    pg.hwa.calibrate(converted, batches, 20, recipe=None)
    return Trained(converted, batches, accuracy, accuracy(net))


def _fit(net: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    steps = epochs * -(-len(images) // 100)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for picked in torch.randperm(len(images)).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[picked]), labels[picked]).backward()
            optimizer.step()
            schedule.step()
