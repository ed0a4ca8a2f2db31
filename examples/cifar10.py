"""How accurate is a residual network on phase-change memory after a year? On CIFAR-10.

Trains a ResNet in float, converts it to crossbar tiles, fine-tunes a copy for the hardware, programs both on chips,
ages the chips, and prints one table: with drift compensation, and with batch-norm statistics re-estimated on each chip
at each time. Writes report.json, report.csv and report.png. When the same command is run again, an interrupted training
resumes from its last checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _data import Cifar10, cifar10
from _fetch import DataUnavailableError, cache_folder
from _report import Clock, add_evaluation, at_least, parsed, standard_tile, table, write
from _resnet import ResNet, accuracy, augmented, normalise
from _training import batches, checkpoint_folder, fit, one_cycle
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.inference import Report, accuracy_over_time


def main() -> None:
    """Train, convert, fine-tune, and measure over time."""
    options = parse()
    clock = Clock()
    torch.manual_seed(options.seed)
    try:
        data = cifar10(options.data)
    except DataUnavailableError as error:
        sys.exit(str(error))
    images, labels = data.test_images[: options.test_images], data.test_labels[: options.test_images]
    net, float_seconds = train(data, options)
    exact = accuracy(net, images, labels)
    clock.say(f"float: {exact:.2%} of {len(images):,} test images, trained in {float_seconds / 60:.1f} minutes")

    converted = pg.convert(net, standard_tile())
    pg.hwa.calibrate(converted, calibration(data, options), recipe=None, sd=options.reach)
    tuned, tuning_seconds = fine_tune(net, data, options)
    print(f"\n{pg.summary(tuned)}\n")
    clock.say(f"fine-tuned for the hardware in {tuning_seconds / 60:.1f} minutes")

    reports = measure(converted, tuned, data, images, labels, options, clock)
    print(f"\n{table(exact, reports)}\n")
    minutes = {"float_minutes": float_seconds / 60, "fine_tuning_minutes": tuning_seconds / 60}
    for path in write(options.out, exact, reports, more=minutes, what="CIFAR-10 test accuracy"):
        print(f"wrote {path}")


def train(data: Cifar10, options: argparse.Namespace) -> tuple[ResNet, float]:
    """Train the float network; also return the training time [s]."""
    net = ResNet(options.depth, options.width)
    return net, _fit("float", net, data, options, options.float_epochs, options.float_lr, decay=5e-4, rise=0.2)


def fine_tune(net: ResNet, data: Cifar10, options: argparse.Namespace) -> tuple[nn.Module, float]:
    """Fine-tune a copy of the network for the hardware; also return the training time [s]."""
    tuned = pg.convert(net, standard_tile())
    recipe = pg.hwa.Recipe(noise=pg.hwa.PCMNoise(strength=options.noise), clip_sigma=options.clip)
    pg.hwa.calibrate(tuned, calibration(data, options), recipe=recipe, sd=options.reach)
    return tuned, _fit("hwa", tuned, data, options, options.epochs, options.lr, decay=options.decay, rise=0.1)


def _fit(
    label: str, net: nn.Module, data: Cifar10, options: argparse.Namespace, epochs: int, lr: float, *, decay: float,
    rise: float,
) -> float:  # fmt: skip
    images, labels = data.train_images[: options.train_images], data.train_labels[: options.train_images]

    def make(picked: Tensor) -> tuple[Tensor, Tensor]:
        return normalise(augmented(images[picked])), labels[picked]

    def loss(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(net(batch[0]), batch[1])

    if epochs == 0:
        return 0.0
    loader = batches(len(images), options.batch, options.seed, make)
    optimizer = torch.optim.SGD(net.parameters(), lr, 0.9, weight_decay=decay, nesterov=True, fused=True)
    schedule = one_cycle(optimizer, epochs * len(loader), rise)
    folder = checkpoints(label, options)
    return fit(
        net, loader, loss, optimizer, schedule, epochs=epochs, folder=folder, label=f"{label}, {epochs} epochs",
        progress=not options.quiet,
    )  # fmt: skip


def checkpoints(label: str, options: argparse.Namespace) -> Path:
    """Folder for the checkpoints of a training, unique for its options."""
    of_float = ("depth", "width", "float_epochs", "float_lr", "batch", "train_images", "seed")
    names = of_float if label == "float" else (*of_float, "epochs", "lr", "decay", "noise", "clip", "reach")
    return checkpoint_folder(options.runs, f"cifar10-{label}", {name: getattr(options, name) for name in names})


def calibration(data: Cifar10, options: argparse.Namespace) -> list[Tensor]:
    """Images for calibration and batch-norm statistics: 20 batches of 128, augmented as in training.

    Training images without augmentation are memorised and give different statistics, which cost 2 points in float.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        picked = torch.randperm(min(options.train_images, len(data.train_images)))[: 20 * 128]
        return [normalise(augmented(data.train_images[part])) for part in picked.split(128)]


def measure(
    converted: nn.Module, tuned: nn.Module, data: Cifar10, images: Tensor, labels: Tensor,
    options: argparse.Namespace, clock: Clock,
) -> dict[str, Report]:  # fmt: skip
    """Accuracy over time of both networks, without and with compensation and batch-norm re-estimation."""
    known = calibration(data, options)

    def plain(chip: nn.Module) -> float:
        return accuracy(chip, images, labels)

    def adapted(chip: nn.Module) -> float:
        return plain(pg.inference.reestimate_batchnorm(chip, known))

    methods: dict[str, tuple[nn.Module, str | None, Callable[[nn.Module], float]]] = {
        "converted": (converted, None, plain),
        "converted+gdc+bn": (converted, "tile", adapted),
        "hwa+gdc": (tuned, "tile", plain),
        "hwa+gdc+bn": (tuned, "tile", adapted),
    }
    reports: dict[str, Report] = {}
    shared: dict[str, Any] = {"chips": options.chips, "seed": options.seed, "progress": not options.quiet}
    for name, (net, compensation, evaluate) in methods.items():
        reports[name] = accuracy_over_time(net, evaluate, options.times, compensation=compensation, **shared)
        clock.say(f"{name}: {options.chips} chips")
    return reports


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    group = parser.add_argument_group("input and output")
    group.add_argument("--out", type=Path, default=Path("out/cifar10"), help="folder for the reports")
    group.add_argument("--data", type=Path, default=None, help="folder with the six files of the binary version")
    group.add_argument("--runs", type=Path, default=cache_folder() / "runs", help="folder for the checkpoints")
    group.add_argument("--train-images", type=at_least(128), default=50_000, help="training images to use")
    group.add_argument("--test-images", type=at_least(1), default=10_000, help="test images to use")
    group = parser.add_argument_group("float training")
    group.add_argument("--depth", type=int, default=20, help="layers: 20 (suits two cores), 32, 44, 56, 110")
    group.add_argument("--width", type=at_least(1), default=16, help="channels of the first layers")
    group.add_argument("--float-epochs", type=at_least(1), default=24, help="passes over the training images")
    group.add_argument("--float-lr", type=float, default=0.2, help="peak learning rate of one cycle")
    group.add_argument("--batch", type=at_least(2), default=128, help="images per step")
    group = parser.add_argument_group("fine-tuning")
    group.add_argument("--epochs", type=at_least(0), default=8, help="passes over the training images; 0 for none")
    group.add_argument("--lr", type=float, default=0.02, help="peak learning rate of one cycle")
    group.add_argument("--decay", type=float, default=1e-4, help="weight decay")
    group.add_argument("--noise", type=float, default=1.5, help="weight noise relative to the programming noise")
    group.add_argument("--clip", type=float, default=2.5, help="clipping of the weights in sigma; 0 for none")
    group.add_argument("--reach", type=float, default=8.0, help="initial input range in root mean squares")
    add_evaluation(parser, chips=10)
    return parsed(parser)


if __name__ == "__main__":
    main()
