"""What an experiment is, and one run of it: a method, a seed."""

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
    """How the network is trained."""

    name: str
    preset: Callable[[], pg.Hardware] | None
    """What the weights live on; ``None`` for float."""
    optimiser: Callable[..., torch.optim.Optimizer] = pg.optim.AnalogSGD
    lr: float | None = None
    """Learning rate of the mean loss of a batch; ``None`` for the experiment's."""
    last: Callable[[], pg.Hardware] | None = None
    """What the last layer's weights live on; ``None`` for the same as the others'."""

    def convert(self, net: nn.Sequential) -> nn.Sequential:
        """The net that is trained."""
        if self.preset is None:
            return net
        *layers, last = net
        converted = [pg.convert(m, self.preset()) if isinstance(m, nn.Linear) else m for m in layers]
        return nn.Sequential(*converted, pg.convert(last, (self.last or self.preset)()))


FLOAT = Method("float", None, torch.optim.SGD)


@dataclass(frozen=True)
class Experiment:
    """A published result, and how it is run here; everything is picklable, for processes of its own."""

    published: str
    chosen: str
    """On which data what was chosen, and how."""
    layers: tuple[int, ...]
    methods: tuple[Method, ...]
    """A float net of the same start and schedule is run beside them."""
    activation: Callable[[], nn.Module] = nn.Sigmoid
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    crop: tuple[int, int] = (28, 28)
    """Rows and columns in the middle of an image."""
    images: int = 60_000
    epochs: int = 10
    batch: int = 10
    lr: float = 0.1
    decay: float = 0.9
    """Factor of the learning rate after each epoch."""
    seeds: tuple[int, ...] = (0, 1, 2)
    on_training: bool = False
    """Whether the accuracy on the training images is reported too."""

    @property
    def all_methods(self) -> tuple[Method, ...]:
        return (FLOAT, *self.methods)

    def network(self) -> nn.Sequential:
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in itertools.pairwise(self.layers):
            layers += [nn.Linear(inputs, outputs), self.activation()]
        return nn.Sequential(*layers[:-1])

    def pixels(self, images: Tensor) -> Tensor:
        """In [0, 1], the middle of each image."""
        rows, columns = self.crop
        top, left = (images.shape[-2] - rows) // 2, (images.shape[-1] - columns) // 2
        return prepare(images[..., top : top + rows, left : left + columns])


class Curves(NamedTuple):
    """Accuracies after each epoch."""

    test: list[float]
    train: list[float]
    """Empty where it is not asked for."""


def train(experiment: Experiment, method: Method, seed: int, data: Mnist) -> Curves:
    """One run. All methods of a seed start from the same weights and see the same batches."""
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
        _tell(method, seed, curves, seconds)
    return curves


def _tell(method: Method, seed: int, curves: Curves, seconds: float) -> None:
    of_training = f", {curves.train[-1]:.2%} of the training images" if curves.train else ""
    epoch = len(curves.test)
    print(f"{method.name}, seed {seed}, epoch {epoch}: {curves.test[-1]:.2%}{of_training}, {seconds:.1f} s", flush=True)
