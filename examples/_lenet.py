"""Digital network of the MNIST examples: a small LeNet-5 and its training."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from _data import Mnist
from _fetch import cache_folder
from torch import Tensor, nn

from phasegrad.progress import track

# Part of the key of cached weights: increase it when a change to this file changes the trained weights.
VERSION = 1


@dataclass(frozen=True)
class Recipe:
    """Architecture and training of the network, selected on the last 5,000 training images.

    Args:
        channels: output channels of the two convolutions.
        hidden: width of the hidden fully connected layer.
        epochs: passes over the training images.
        batch: images per step.
        lr: peak learning rate of the one-cycle schedule.
        momentum: Nesterov momentum.
        weight_decay: L2 penalty.
        label_smoothing: probability distributed over all classes.
        shift: largest random shift of a training image, along both axes [pixel].
    """

    channels: tuple[int, int] = (8, 16)
    hidden: int = 96
    epochs: int = 7
    batch: int = 128
    lr: float = 0.07
    momentum: float = 0.9
    weight_decay: float = 1e-4
    label_smoothing: float = 0.0
    shift: int = 1


class LeNet(nn.Module):
    """LeNet-5 with rectifiers and max-pooling: two 5x5 convolutions and two fully connected layers.

    Args:
        channels: output channels of the two convolutions.
        hidden: width of the hidden fully connected layer.
    """

    def __init__(self, channels: tuple[int, int] = (8, 16), hidden: int = 96) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels[0], 5)
        self.conv2 = nn.Conv2d(channels[0], channels[1], 5)
        self.fc1 = nn.Linear(16 * channels[1], hidden)
        self.fc2 = nn.Linear(hidden, 10)
        self.pool = nn.MaxPool2d(2)
        self.relu = nn.ReLU()
        # Channels last halves the time of the convolutions on a CPU.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Scores ``[n, 10]`` of normalised images ``[n, 1, 28, 28]``."""
        # Pooling before the rectifier is equivalent, with a quarter of the operations.
        x = self.relu(self.pool(self.conv1(images)))
        x = self.relu(self.pool(self.conv2(x)))
        return self.fc2(self.relu(self.fc1(x.flatten(1))))


def normalise(images: Tensor) -> Tensor:
    """Convert images in 0..255 to float images with zero mean and unit variance over MNIST."""
    return (images.float() / 255 - 0.1307) / 0.3081


@torch.inference_mode()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor, batch: int = 500) -> float:
    """Fraction of images that a network classifies correctly.

    Args:
        net: network to test, in its present mode.
        images: images in 0..255, ``[n, 1, 28, 28]``.
        labels: their labels ``[n]``.
        batch: images per forward pass.

    Returns:
        The accuracy, 0 to 1.
    """
    guesses = [net(normalise(part)).argmax(1) for part in images.split(batch)]
    return torch.cat(guesses).eq(labels).double().mean().item()


def train_float(data: Mnist, recipe: Recipe | None = None, seed: int = 0, progress: bool = True) -> LeNet:
    """Train a network on MNIST, or load it from the cache if it was trained before.

    Args:
        data: the data set; only its training part is used.
        recipe: architecture and training.
        seed: seed of the initial weights, of the order of the images and of their shifts.
        progress: whether to show progress.

    Returns:
        The trained network, in evaluation mode.
    """
    recipe = recipe or Recipe()
    path = _weights_path(recipe, seed)
    net = _new(recipe, seed)
    if path.exists():
        net.load_state_dict(torch.load(path, weights_only=True))
    else:
        fit(net, data.train_images, data.train_labels, recipe, seed, progress)
        _save(net, path)
    return net.eval()


def fit(net: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe, seed: int, progress: bool = True) -> None:
    """Train a network in place by SGD with Nesterov momentum and a one-cycle learning rate.

    Args:
        net: network to train.
        images: training images in 0..255, ``[n, 1, 28, 28]``.
        labels: their labels ``[n]``.
        recipe: length and hyper-parameters of the training.
        seed: seed of the order of the images and of their shifts.
        progress: whether to show progress.
    """
    generator = torch.Generator().manual_seed(seed)
    steps = recipe.epochs * (len(images) // recipe.batch)
    optimiser, schedule = _optimiser(net, recipe, steps)
    net.train()
    with track(steps, unit="step", label="training the float network", shown=progress) as bar:
        for _ in range(recipe.epochs):
            for picked in _batches(len(images), recipe.batch, generator):
                inputs = normalise(_shifted(images[picked], recipe.shift, generator))
                loss = F.cross_entropy(net(inputs), labels[picked], label_smoothing=recipe.label_smoothing)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                bar.update()


def _new(recipe: Recipe, seed: int) -> LeNet:
    """Create an untrained network without changing the caller's random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LeNet(recipe.channels, recipe.hidden)


def _optimiser(
    net: nn.Module, recipe: Recipe, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimiser = torch.optim.SGD(
        net.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.lr, total_steps=steps, pct_start=0.2, cycle_momentum=False
    )
    return optimiser, schedule


def _batches(n: int, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Complete batches of ``n`` images in random order; the remainder is dropped in this epoch."""
    return torch.randperm(n, generator=generator)[: n - n % size].split(size)


def _shifted(images: Tensor, largest: int, generator: torch.Generator) -> Tensor:
    """Shift each image by random numbers of pixels along both axes, padded with zeros."""
    height, width = images.shape[-2:]
    windows = F.pad(images, (largest,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    down, right = torch.randint(2 * largest + 1, (2, len(images)), generator=generator)
    return windows[torch.arange(len(images)), :, down, right]


def _weights_path(recipe: Recipe, seed: int) -> Path:
    described = json.dumps({**asdict(recipe), "seed": seed, "version": VERSION}, sort_keys=True)
    key = hashlib.sha256(described.encode()).hexdigest()[:12]
    return cache_folder() / "weights" / f"lenet-{seed}-{key}.pt"


def _save(net: nn.Module, path: Path) -> None:
    """Write a temporary file and rename it, so that an interruption leaves no partial weights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, staged = tempfile.mkstemp(suffix=".pt", dir=path.parent)
    os.close(handle)
    try:
        torch.save(net.state_dict(), staged)
        os.replace(staged, path)
    finally:
        Path(staged).unlink(missing_ok=True)
