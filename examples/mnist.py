"""What is left of an MNIST network on phase-change memory after a second, a day, a year?

Trains a small LeNet-5 in float (once; then from the cache), converts it to crossbar tiles, fine-tunes it for the
hardware, programs both on many chips, lets the chips age, and prints one table. Writes report.json, report.csv and
report.png.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from _data import DataUnavailableError, Mnist, mnist
from _lenet import LeNet, accuracy, normalise, train_float
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.inference import Report, accuracy_over_time, format_time

PRESETS = {
    "pcm": pg.presets.pcm_inference,
    "hermes": pg.presets.hermes_inference,
    "ideal": pg.presets.ideal_inference,
}


class Batches:
    """Shuffled training batches, normalised; a new order, from torch's generator, at each pass."""

    def __init__(self, images: Tensor, labels: Tensor, size: int) -> None:
        self.images, self.labels, self.size = images, labels, size

    def __len__(self) -> int:
        return len(self.images) // self.size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.images))[: len(self) * self.size]
        for picked in order.split(self.size):
            yield normalise(self.images[picked]), self.labels[picked]


def main() -> None:
    """Run the whole story."""
    options = parse()
    started = time.perf_counter()
    torch.manual_seed(options.seed)
    try:
        data = mnist(options.data)
    except DataUnavailableError as error:
        sys.exit(str(error))
    net = train_float(data, seed=options.seed, progress=not options.quiet)
    images, labels = data.test_images[: options.test_images], data.test_labels[: options.test_images]
    exact = accuracy(net, images, labels)
    say(f"float: {exact:.2%} of {len(images):,} test images", started)

    converted, tuned = prepare(net, data, options)
    print(f"\n{pg.summary(tuned)}\n")
    say("fine-tuned for the hardware", started)

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
            say(f"{name + suffix}: {options.chips} chips", started)
    print(f"\n{table(exact, reports)}\n")
    for path in write(options.out, exact, reports):
        print(f"wrote {path}")


def prepare(net: LeNet, data: Mnist, options: argparse.Namespace) -> tuple[nn.Module, nn.Module]:
    """The net converted with calibrated converters, and the same fine-tuned."""
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


def table(exact: float, reports: Mapping[str, Report]) -> str:
    """Mean and standard deviation over chips [%], a method a row, a time a column."""
    first = next(iter(reports.values()))
    head = ["method", *(format_time(t) for t in first.times)]
    rows = [["float", f"{exact:.2%}"[:-1], *[""] * (len(head) - 2)]]
    for name, report in reports.items():
        cells = (f"{m:.2f} ± {s:.2f}" for m, s in zip(report.mean() * 100, report.sd() * 100, strict=True))
        rows.append([name, *cells])
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join(f"{c:{'<' if i == 0 else '>'}{w}}" for i, (c, w) in enumerate(zip(r, widths, strict=True)))
        for r in [head, *rows]
    ]
    rule = "-" * len(lines[0])
    caption = f"accuracy (%), mean ± standard deviation over {first.chips} chips; gdc: global drift compensation"
    return "\n".join([caption, "", lines[0], rule, lines[1], rule, *lines[2:]])


def write(folder: Path, exact: float, reports: Mapping[str, Report]) -> list[Path]:
    """Keep the figures as JSON, every chip's as CSV, and draw them."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"report.{ending}" for ending in ("json", "csv", "png")]
    rows = [
        {"method": name, **{key: row[key] for key in ("time_s", "mean", "sd", "p05", "chips")}}
        for name, report in reports.items()
        for row in report.rows()
    ]
    versions = {"phasegrad": pg.__version__, "torch": torch.__version__, "backend": pg.backends()["cpu"]}
    content = {"float": exact, "rows": rows, "command": " ".join(sys.argv), "versions": versions}
    paths[0].write_text(json.dumps(content, indent=2) + "\n")
    with paths[1].open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("method", "time_s", "chip", "accuracy"))
        for name, report in reports.items():
            for moment, chips in zip(report.times, report.values, strict=True):
                writer.writerows((name, moment, i, float(value)) for i, value in enumerate(chips))
    pg.plot.over_time(reports, paths[2], reference=exact, ylabel="MNIST test accuracy")
    return paths


def say(text: str, started: float) -> None:
    """A line of progress, with the time since the start."""
    print(f"[{time.perf_counter() - started:5.0f} s] {text}", flush=True)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    group = parser.add_argument_group("input and output")
    group.add_argument("--out", type=Path, default=Path("out/mnist"), help="folder of the reports")
    group.add_argument("--data", type=Path, default=None, help="folder with the four MNIST files")
    group.add_argument("--quiet", action="store_true", help="no progress bars")
    group = parser.add_argument_group("hardware")
    group.add_argument("--hardware", choices=sorted(PRESETS), default="pcm", help="preset")
    group.add_argument("--compensation", choices=("tile", "column", "layer"), default="tile", help="what shares a gain")
    group = parser.add_argument_group("fine-tuning")
    group.add_argument("--epochs", type=at_least(0), default=2, help="passes over the training images; 0: none")
    group.add_argument("--batch", type=at_least(1), default=128, help="images a step")
    group.add_argument("--lr", type=float, default=0.02, help="learning rate at the start; falls as a half cosine")
    group.add_argument("--noise", type=float, default=3.0, help="weight noise, times the spread of programming")
    group.add_argument("--clip", type=float, default=2.5, help="weights clipped at this many sigma; 0: not")
    group.add_argument("--drop-connect", type=float, default=0.0, help="probability that a weight reads as zero")
    group.add_argument("--distil", action="store_true", help="learn from the float network too")
    group = parser.add_argument_group("evaluation")
    group.add_argument("--chips", type=at_least(1), default=25, help="chips of each network")
    group.add_argument(
        "--times", type=float, nargs="+", default=[1.0, 3600.0, 86_400.0, 2.6e6, 3.15e7], metavar="S",
        help="times since programming [s], rising",
    )  # fmt: skip
    group.add_argument("--test-images", type=at_least(1), default=10_000, help="test images to use")
    group.add_argument("--seed", type=int, default=0, help="seed of training, chips and noise")
    options = parser.parse_args()
    if options.times != sorted(options.times) or min(options.times) < 0:
        parser.error(f"--times {options.times}: times must rise, and none may be negative")
    return options


def at_least(low: int) -> type[int]:
    """An argument type: an integer of at least ``low``."""

    def integer(text: str) -> int:
        if int(text) < low:
            raise argparse.ArgumentTypeError(f"{text} is below {low}")
        return int(text)

    return integer  # type: ignore[return-value]


if __name__ == "__main__":
    main()
