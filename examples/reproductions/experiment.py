"""An experiment, and one run of it with one method and seed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from _data import Mnist
from mnist_in_memory import accuracy, prepare
from torch import Tensor, nn

import phasegrad as pg


@dataclass(frozen=True)
class Method:
    """A device and an algorithm to train the network with."""

    name: str
    preset: Callable[[], pg.Hardware] | None
    """Hardware of the weights; ``None`` for float."""
    optimiser: Callable[..., torch.optim.Optimizer] = pg.optim.AnalogSGD
    lr: float | None = None
    """Learning rate for the mean loss of a batch; ``None`` for that of the experiment."""
    last: Callable[[], pg.Hardware] | None = None
    """Hardware of the last layer; ``None`` for the same as the others."""

    def convert(self, net: nn.Sequential) -> nn.Sequential:
        """Convert a float net for training."""
        if self.preset is None:
            return net
        *layers, last = net
        converted = [pg.convert(m, self.preset()) if isinstance(m, nn.Linear) else m for m in layers]
        return nn.Sequential(*converted, pg.convert(last, (self.last or self.preset)()))


FLOAT = Method("float", None, torch.optim.SGD)


@dataclass(frozen=True)
class Experiment:
    """A published result and its settings here; all fields can be pickled for worker processes."""

    published: str
    chosen: str
    """The settings that were chosen, and the data and criterion."""
    layers: tuple[int, ...]
    methods: tuple[Method, ...]
    """Methods to compare with a float net that has the same initial weights and schedule."""
    activation: Callable[[], nn.Module] = nn.Sigmoid
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    crop: tuple[int, int] = (28, 28)
    """Rows and columns of the centre of an image to use."""
    images: int = 60_000
    epochs: int = 10
    batch: int = 10
    lr: float = 0.1
    decay: float = 0.9
    """Factor of the learning rate after each epoch."""
    averaged: int = 1
    """Number of last epochs whose mean accuracy is reported, where it changes from epoch to epoch."""
    seeds: tuple[int, ...] = (0, 1, 2)
    on_training: bool = False
    """Whether to report the accuracy on the training images too."""

    @property
    def all_methods(self) -> tuple[Method, ...]:
        return (FLOAT, *self.methods)

    def network(self) -> nn.Sequential:
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in itertools.pairwise(self.layers):
            layers += [nn.Linear(inputs, outputs), self.activation()]
        return nn.Sequential(*layers[:-1])

    def pixels(self, images: Tensor) -> Tensor:
        """Crop images to their centre and scale them to [0, 1]."""
        rows, columns = self.crop
        top, left = (images.shape[-2] - rows) // 2, (images.shape[-1] - columns) // 2
        return prepare(images[..., top : top + rows, left : left + columns])


class Curves(NamedTuple):
    """Accuracies after each epoch."""

    test: list[float]
    train: list[float]
    """Empty unless ``on_training``."""


def train(experiment: Experiment, method: Method, seed: int, data: Mnist) -> Curves:
    """Run one method; all methods of a seed have the same initial weights and batches."""
    torch.manual_seed(seed)
    net = method.convert(experiment.network())
    images, labels = experiment.pixels(data.train_images[: experiment.images]), data.train_labels[: experiment.images]
    test_images = experiment.pixels(data.test_images)
    step = method.optimiser(net.parameters(), lr=method.lr or experiment.lr)
    schedule = torch.optim.lr_scheduler.ExponentialLR(step, experiment.decay)
    generator, curves = torch.Generator().manual_seed(seed), Curves([], [])
    for _ in range(experiment.epochs):
        started = time.perf_counter()
        for picked in torch.randperm(len(images), generator=generator).split(experiment.batch):
            step.zero_grad()
            experiment.loss(net(images[picked]), labels[picked]).backward()
            step.step()
        seconds = time.perf_counter() - started
        schedule.step()
        curves.test.append(accuracy(net, test_images, data.test_labels))
        if experiment.on_training:
            curves.train.append(accuracy(net, images, labels))
        _print_epoch(method, seed, curves, seconds)
    return curves


def _print_epoch(method: Method, seed: int, curves: Curves, seconds: float) -> None:
    training = f", training accuracy {curves.train[-1]:.2%}" if curves.train else ""
    accuracies = f"test accuracy {curves.test[-1]:.2%}{training}"
    print(f"{method.name}, seed {seed}, epoch {len(curves.test)}: {accuracies}, {seconds:.1f} s", flush=True)
