"""Small nets of several kinds, trained in float and fine-tuned for phase-change memory, for the examples of faults."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _lenet
import _resnet
import torch
import torch.nn.functional as F
from _data import cifar10, mnist
from _fetch import cache_folder
from _report import standard_tile
from _training import one_cycle
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.progress import track

VERSION = 1
"""Part of the key of cached weights."""
BATCH = 128
TUNING_IMAGES = 12_800
"""Training images of each pass of fine-tuning."""


class RowLSTM(nn.Module):
    """An LSTM that reads an image row by row, and a linear layer on its last state.

    Args:
        hidden: width of the LSTM.
    """

    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        self.lstm = nn.LSTM(28, hidden, batch_first=True)
        self.fc = nn.Linear(hidden, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Scores ``[n, 10]`` of images ``[n, 1, 28, 28]``."""
        return self.fc(self.lstm(images.squeeze(1))[0][:, -1])


def _fully_connected() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 250), nn.ReLU(), nn.Linear(250, 10))


def _convolutional() -> nn.Module:
    """Three convolutions with batch norms, for images of 32 x 32."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride, pool in ((3, 16, 2, 1), (16, 32, 1, 2), (32, 64, 1, 2)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.MaxPool2d(pool)] * (pool > 1)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 10))


@dataclass(frozen=True)
class Kind:
    """A kind of network and its task; all are trained by SGD with Nesterov momentum and one cycle."""

    name: str
    make: Callable[[], nn.Module]
    data: Callable[[Any], Any]
    """The data set in a folder, or ``None`` for the cache."""
    normalise: Callable[[Tensor], Tensor]
    augment: Callable[[Tensor], Tensor]
    epochs: int
    lr: float
    clip: float = 2.5
    """Clipping of the weights in fine-tuning, in sigma."""
    noise: float = 1.5
    """Weight noise of fine-tuning, relative to the programming noise."""


def _same(images: Tensor) -> Tensor:
    return images


KINDS = (
    Kind("fully connected, MNIST", _fully_connected, mnist, _lenet.normalise, _same, epochs=4, lr=0.1),
    Kind("LSTM, MNIST", RowLSTM, mnist, _lenet.normalise, _same, epochs=4, lr=0.3),
    Kind("LeNet, MNIST", _lenet.LeNet, mnist, _lenet.normalise, _same, epochs=3, lr=0.07),
    Kind("CNN, CIFAR-10", _convolutional, cifar10, _resnet.normalise, _resnet.augmented, epochs=3, lr=0.2),
)


@dataclass(frozen=True)
class Trained:
    """A float net, the net fine-tuned for the hardware, and test images."""

    kind: Kind
    tuned: nn.Module
    exact: float
    """Accuracy of the float net on the test images."""
    images: Tensor
    labels: Tensor

    def accuracy(self, net: nn.Module) -> float:
        """Fraction of the test images that a net classifies correctly."""
        with torch.inference_mode():
            guesses = [net(part).argmax(1) for part in self.images.split(500)]
        return torch.cat(guesses).eq(self.labels).double().mean().item()


class _Batches:
    """Batches in random order of torch's generator, augmented and normalised."""

    def __init__(self, kind: Kind, images: Tensor, labels: Tensor, most: int | None = None) -> None:
        self.kind, self.images, self.labels = kind, images[:most], labels[:most]

    def __len__(self) -> int:
        return len(self.images) // BATCH

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for picked in torch.randperm(len(self.images))[: len(self) * BATCH].split(BATCH):
            yield self.kind.normalise(self.kind.augment(self.images[picked])), self.labels[picked]


def trained(kind: Kind, folder: Path | None = None, *, test_images: int = 2000, tuning_epochs: int = 2) -> Trained:
    """Train a network and fine-tune it, or load it from the cache.

    Args:
        kind: the network.
        folder: folder with the data; ``None`` for the cache.
        test_images: test images that are kept.
        tuning_epochs: passes of fine-tuning over the training images.
    """
    data = kind.data(folder)
    torch.manual_seed(0)
    net, path = kind.make(), _path(kind, tuning_epochs)
    tuned = pg.convert(net, standard_tile())
    if path.exists():
        states = torch.load(path, weights_only=True)
        net.load_state_dict(states["float"])
        tuned.load_state_dict(states["tuned"])
    else:
        _fit(kind, net, _Batches(kind, data.train_images, data.train_labels))
        some = _Batches(kind, data.train_images, data.train_labels, TUNING_IMAGES)
        tuned = _fine_tuned(kind, net, some, tuning_epochs)
        _save({"float": net.state_dict(), "tuned": tuned.state_dict()}, path)
    images, labels = kind.normalise(data.test_images[:test_images]), data.test_labels[:test_images]
    result = Trained(kind, tuned.eval(), 0.0, images, labels)
    return Trained(kind, tuned.eval(), result.accuracy(net.eval()), images, labels)


def _fit(kind: Kind, net: nn.Module, batches: _Batches) -> None:
    steps = kind.epochs * len(batches)
    optimizer = torch.optim.SGD(net.parameters(), kind.lr, 0.9, weight_decay=1e-4, nesterov=True)
    schedule = one_cycle(optimizer, steps, 0.2)
    net.train()
    with track(steps, unit="step", label=f"training {kind.name}") as bar:
        for _ in range(kind.epochs):
            for images, labels in batches:
                optimizer.zero_grad()
                F.cross_entropy(net(images), labels).backward()
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                bar.update()


def _fine_tuned(kind: Kind, net: nn.Module, batches: _Batches, epochs: int) -> nn.Module:
    tuned = pg.convert(net, standard_tile())
    recipe = pg.hwa.Recipe(noise=pg.hwa.PCMNoise(strength=kind.noise), clip_sigma=kind.clip)
    optimizer = torch.optim.SGD(tuned.parameters(), lr=0.02, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))
    pg.hwa.fine_tune(tuned, batches, epochs=epochs, recipe=recipe, optimizer=optimizer, scheduler=schedule)
    return tuned


def _path(kind: Kind, tuning_epochs: int) -> Path:
    settings = [VERSION, kind.name, TUNING_IMAGES, kind.epochs, kind.lr, kind.clip, kind.noise, tuning_epochs]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
    return cache_folder() / "weights" / f"fault-nets-{key}.pt"


def _save(states: dict[str, Any], path: Path) -> None:
    """Write a temporary file and rename it, so that an interruption leaves no partial weights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_suffix(".writing")
    torch.save(states, staged)
    os.replace(staged, path)
