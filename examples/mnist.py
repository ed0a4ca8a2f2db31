"""How accurate is an MNIST network on phase-change memory after a second, a day, a year?

Trains a small LeNet-5 in float (once; later runs load it from the cache), converts it to crossbar tiles, fine-tunes a
copy for the hardware, programs both on many chips, ages the chips, and prints one table. Writes report.json, report.csv
and report.png.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from _data import DataUnavailableError, Mnist, mnist
from _lenet import LeNet, accuracy, normalise, train_float
from _report import Clock, add_evaluation, at_least, parsed, table, write
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.inference import Report, accuracy_over_time

PRESETS = {
    "pcm": pg.presets.pcm_inference,
    "hermes": pg.presets.hermes_inference,
    "ideal": pg.presets.ideal_inference,
}


class Batches:
    """Normalised training batches in a new order, drawn from torch's generator, for each pass."""

    def __init__(self, images: Tensor, labels: Tensor, size: int) -> None:
        self.images, self.labels, self.size = images, labels, size

    def __len__(self) -> int:
        return len(self.images) // self.size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.images))[: len(self) * self.size]
        for picked in order.split(self.size):
            yield normalise(self.images[picked]), self.labels[picked]


def main() -> None:
    """Train, convert, fine-tune, and measure accuracy over time."""
    options = parse()
    clock = Clock()
    torch.manual_seed(options.seed)
    try:
        data = mnist(options.data)
    except DataUnavailableError as error:
        sys.exit(str(error))
    net = train_float(data, seed=options.seed, progress=not options.quiet)
    images, labels = data.test_images[: options.test_images], data.test_labels[: options.test_images]
    exact = accuracy(net, images, labels)
    clock.say(f"float: {exact:.2%} of {len(images):,} test images")

    converted, tuned = prepare(net, data, options)
    print(f"\n{pg.summary(tuned)}\n")
    clock.say("fine-tuned for the hardware")

    reports: dict[str, Report] = {}
    for name, candidate in (("converted", converted), ("hwa", tuned)):
        for suffix, compensation in (("", None), ("+gdc", options.compensation)):
            reports[name + suffix] = accuracy_over_time(
                candidate,
                lambda chip: accuracy(chip, images, labels),
                options.times,
                chips=options.chips,
                seed=options.seed,
                compensation=compensation,
                progress=not options.quiet,
            )
            clock.say(f"{name + suffix}: {options.chips} chips")
    print(f"\n{table(exact, reports)}\n")
    for path in write(options.out, exact, reports, what="MNIST test accuracy"):
        print(f"wrote {path}")


def prepare(net: LeNet, data: Mnist, options: argparse.Namespace) -> tuple[nn.Module, nn.Module]:
    """Convert the net and calibrate its converters; also fine-tune a copy."""
    hardware = PRESETS[options.hardware]()
    batches = Batches(data.train_images, data.train_labels, options.batch)
    converted = pg.convert(net, hardware)
    pg.hwa.calibrate(converted, batches, recipe=None)
    tuned = pg.convert(net, hardware)
    recipe = pg.hwa.Recipe(
        noise=pg.hwa.PCMNoise(strength=options.noise),
        clip_sigma=options.clip,
        drop_connect=options.drop_connect,
        distillation=pg.hwa.Distillation() if options.distil else None,
    )
    optimizer = torch.optim.SGD(tuned.parameters(), lr=options.lr, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, options.epochs * len(batches)))
    if not options.epochs:
        pg.hwa.calibrate(tuned, batches, recipe=recipe)
    else:
        pg.hwa.fine_tune(
            tuned,
            batches,
            epochs=options.epochs,
            recipe=recipe,
            optimizer=optimizer,
            scheduler=scheduler,
            progress=not options.quiet,
        )
    return converted, tuned.eval()


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    group = parser.add_argument_group("input and output")
    group.add_argument("--out", type=Path, default=Path("out/mnist"), help="folder for the reports")
    group.add_argument("--data", type=Path, default=None, help="folder with the four MNIST files")
    group = parser.add_argument_group("hardware")
    group.add_argument("--hardware", choices=sorted(PRESETS), default="pcm", help="preset")
    group.add_argument(
        "--compensation", choices=("tile", "column", "layer"), default="tile", help="columns that share a gain"
    )
    group = parser.add_argument_group("fine-tuning")
    group.add_argument("--epochs", type=at_least(0), default=2, help="passes over the training images; 0 for none")
    group.add_argument("--batch", type=at_least(1), default=128, help="images per step")
    group.add_argument("--lr", type=float, default=0.02, help="initial learning rate of a half cosine")
    group.add_argument("--noise", type=float, default=3.0, help="weight noise relative to the programming noise")
    group.add_argument("--clip", type=float, default=2.5, help="clipping of the weights in sigma; 0 for none")
    group.add_argument("--drop-connect", type=float, default=0.0, help="probability that a weight reads as zero")
    group.add_argument("--distil", action="store_true", help="also distil from the float network")
    parser.add_argument("--test-images", type=at_least(1), default=10_000, help="test images to use")
    add_evaluation(parser, chips=25)
    return parsed(parser)


if __name__ == "__main__":
    main()
