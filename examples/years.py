"""How much accuracy does a network keep over years, and what do compensation and drift-aware training save?

Trains small two-layer networks on MNIST and Fashion-MNIST in float, prepares each for the chip in four ways (only
calibrated, hardware-aware training of two strengths, drift-aware training), programs it on many chips, ages these by up
to ten years, and measures the test error with each drift compensation. Writes result.json, result.csv and result.png.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from _data import DataUnavailableError, Mnist, fashion_mnist, mnist
from _report import Clock, at_least, standard_tile
from _years import Errors, savings, summary, table, write
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.inference import accuracy_over_time

YEAR = 3.156e7
"""[s]"""
TIMES = (1.0, YEAR, 5.0 * YEAR, 10.0 * YEAR)
DATA = {"mnist": mnist, "fashion-mnist": fashion_mnist}
NOISE = {"hardware-aware": 1.0, "hardware-aware, noise x2": 2.0}
"""Strengths of the programming noise."""
TRAININGS = ("none", *NOISE, "drift-aware")
AGES = pg.hwa.LogUniform(low=1.0, high=10.0 * YEAR)
PUBLISHED = (
    "Haidar 2025, MNIST, two layers, 5 years: error 9.14 % (hardware-aware), 3.75 % (drift-aware), 2.12 % "
    "(drift-aware, global compensation)"
)


class Batches:
    """Training batches in a new order, drawn from torch's generator, for each pass."""

    def __init__(self, inputs: Tensor, labels: Tensor, size: int) -> None:
        self.inputs, self.labels, self.size = inputs, labels, size

    def __len__(self) -> int:
        return len(self.inputs) // self.size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for picked in torch.randperm(len(self.inputs))[: len(self) * self.size].split(self.size):
            yield self.inputs[picked], self.labels[picked]


class Task(NamedTuple):
    """Inputs ``[n, 196]`` with zero mean and unit variance over the training part, and labels ``[n]``."""

    train: Batches
    inputs: Tensor
    labels: Tensor

    @classmethod
    def of(cls, data: Mnist, options: argparse.Namespace) -> Task:
        """Images of 28 by 28 pixels, averaged to 14 by 14."""
        parts = [F.avg_pool2d(x.float(), 2).flatten(1) for x in (data.train_images, data.test_images)]
        train, test = ((x - parts[0].mean()) / parts[0].std() for x in parts)
        train, test = train[: options.train_images], test[: options.test_images]
        return cls(Batches(train, data.train_labels[: len(train)], options.batch), test, data.test_labels[: len(test)])

    @torch.no_grad()
    def error(self, net: nn.Module) -> float:
        """Share of the test images that a net gets wrong."""
        return float((net(self.inputs).argmax(1) != self.labels).double().mean())


def compensations(task: Task) -> dict[str, tuple[str | None, str | None]]:
    """By name, what is done before each evaluation, and what drift-aware training expects the chip to do.

    Gains per tile and per column have nearly the same mean, so that one training serves both.
    """
    return {"none": (None, None), "tile": ("tile", "tile"), "column": ("column", "tile")}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the experiment on both data sets."""
    options, clock = parse(arguments), Clock()
    rows, saved, exact = [], [], {}
    for name in options.data_sets:
        try:
            task = Task.of(DATA[name](options.data), options)
        except DataUnavailableError as error:
            sys.exit(str(error))
        errors, exact[name] = measure(task, options, clock, name)
        rows += summary(name, errors, options.times)
        saved += savings(name, errors, options.times, "drift-aware", NOISE)
    print(f"\n{table(rows, exact)}\n")
    content = {
        "experiment": "error of two-layer networks on PCM over years", "published": PUBLISHED, "seeds": options.seeds,
        "float": exact, "saved_by_drift_aware": saved,
        "settings": {k: v for k, v in vars(options).items() if k not in ("out", "data", "line")},
        "command": " ".join(("python examples/years.py", *options.line)),
    }  # fmt: skip
    for path in write(options.out, rows, content):
        print(f"wrote {path}")


def measure(task: Task, options: argparse.Namespace, clock: Clock, name: str) -> tuple[Errors, float]:
    """Errors ``[nets, times, chips]`` by training and compensation, and the mean error of the float nets."""
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    exact = []
    for seed in options.seeds:
        torch.manual_seed(seed)
        model = train_float(task, options)
        exact.append(task.error(model))
        nets: dict[tuple[str, str | None], nn.Module] = {}  # only drift-aware training depends on what is expected
        for training, (kind, (before, expected)) in itertools.product(TRAININGS, compensations(task).items()):
            key = (training, expected if training == "drift-aware" else None)
            if key not in nets:
                torch.manual_seed(seed)
                nets[key] = prepared(model, task, *key, options)
            report = accuracy_over_time(
                nets[key], task.error, options.times, chips=options.chips, seed=seed, compensation=before,
                progress=False,
            )  # fmt: skip
            found.setdefault((training, kind), []).append(report.values)
            shown = " ".join(f"{error:.2%}" for error in report.mean())
            clock.say(f"{name}, net {seed}, training {training}, compensation {kind}: {shown}")
    return {key: np.stack(values) for key, values in found.items()}, float(np.mean(exact))


def train_float(task: Task, options: argparse.Namespace) -> nn.Module:
    """Train a network with one hidden layer."""
    net = nn.Sequential(nn.Linear(196, options.hidden), nn.ReLU(), nn.Linear(options.hidden, 10))
    optimizer, schedule = _optimizer(net, options.float_epochs * len(task.train), options.float_lr)
    for _ in range(options.float_epochs):
        for x, labels in task.train:
            optimizer.zero_grad()
            F.cross_entropy(net(x), labels).backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def prepared(
    model: nn.Module, task: Task, training: str, expected: str | None, options: argparse.Namespace
) -> nn.Module:
    """Convert a net, calibrate its converters, and train it for the chip unless ``training`` is ``"none"``."""
    net = pg.convert(model, standard_tile())
    if training == "none":
        return pg.hwa.calibrate(net, task.train, recipe=None).eval()
    if training == "drift-aware":
        recipe = pg.hwa.Recipe(age=AGES, compensation=expected, clip_sigma=options.clip)
    else:
        recipe = pg.hwa.Recipe(noise=pg.hwa.PCMNoise(strength=NOISE[training]), clip_sigma=options.clip)
    optimizer, schedule = _optimizer(net, options.epochs * len(task.train), options.lr)
    pg.hwa.fine_tune(
        net, task.train, epochs=options.epochs, recipe=recipe, optimizer=optimizer, scheduler=schedule, progress=False
    )
    return net.eval()


def _optimizer(
    net: nn.Module, steps: int, lr: float
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, default=Path("out/years"), help="folder for the results")
    parser.add_argument("--data", type=Path, default=None, help="folder with the four files of a data set")
    parser.add_argument("--data-sets", nargs="+", choices=sorted(DATA), default=list(DATA), help="data sets")
    parser.add_argument("--hidden", type=at_least(1), default=16, help="width of the hidden layer")
    parser.add_argument("--batch", type=at_least(1), default=500, help="images per step")
    parser.add_argument("--float-epochs", type=at_least(1), default=15, help="passes of the float training")
    parser.add_argument("--float-lr", type=float, default=5e-3, help="initial learning rate of the float training")
    parser.add_argument("--epochs", type=at_least(1), default=6, help="passes of the training for the chip")
    parser.add_argument("--lr", type=float, default=5e-3, help="initial learning rate of the training for the chip")
    parser.add_argument("--clip", type=float, default=2.5, help="clipping of the weights in root mean squares")
    parser.add_argument("--chips", type=at_least(1), default=34, help="chips per network")
    parser.add_argument("--times", type=float, nargs="+", default=list(TIMES), help="times since programming [s]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the networks")
    parser.add_argument("--train-images", type=at_least(1), default=60_000, help="training images to use")
    parser.add_argument("--test-images", type=at_least(1), default=10_000, help="test images to use")
    parser.add_argument("--quick", action="store_true", help="one net, few images and chips, to try the script")
    line = list(sys.argv[1:] if arguments is None else arguments)
    if "--quick" in line:
        small = {"float_epochs": 2, "epochs": 1, "batch": 100, "train_images": 2000, "test_images": 500, "chips": 2}
        parser.set_defaults(**small, seeds=[0], times=[1.0, 5.0 * YEAR])
    options = parser.parse_args(line)
    options.line = line
    return options


if __name__ == "__main__":
    main()
