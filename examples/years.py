"""How much accuracy does a network keep over years, and what do compensation and drift-aware training save?

Trains small two-layer networks on MNIST and Fashion-MNIST in float, prepares each for the chip in three ways (only
calibrated, hardware-aware training, drift-aware training), programs it on many chips, ages these by up to ten years,
and measures the test error with each drift compensation. Writes result.json, result.csv and result.png.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from _data import DataUnavailableError, Mnist, fashion_mnist, mnist
from _report import Clock, aligned, at_least, standard_tile
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.inference import accuracy_over_time, format_time

YEAR = 3.156e7
"""[s]"""
TIMES = (1.0, 86_400.0, YEAR, 5.0 * YEAR, 10.0 * YEAR)
DATA = {"mnist": mnist, "fashion-mnist": fashion_mnist}
COMPENSATIONS = {"none": (None, None), "tile": ("tile", "tile"), "column": ("column", "column")}
"""What ``accuracy_over_time`` does before each evaluation, and what drift-aware training expects of the chip."""
TRAININGS = ("none", "hardware-aware", "drift-aware")
AGES = pg.hwa.LogUniform(low=1.0, high=10.0 * YEAR)
PUBLISHED = "Haidar 2025, MNIST, two layers, 5 years: error 9.14 % (hardware-aware), 3.75 % (drift-aware), 2.12 % \
(drift-aware, global compensation)"
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # 97.5 %, 1 to 9 degrees of freedom


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the experiment on both data sets."""
    options, clock = parse(arguments), Clock()
    rows: list[dict[str, object]] = []
    exact: dict[str, list[float]] = {}
    for name in options.data_sets:
        try:
            task = Task.of(DATA[name](options.data), options)
        except DataUnavailableError as error:
            sys.exit(str(error))
        errors, exact[name] = measure(task, options, clock, name)
        rows += summary(name, errors, options)
    print(f"\n{table(rows, exact)}\n")
    for path in write(options.out, rows, exact, options):
        print(f"wrote {path}")


def measure(
    task: Task, options: argparse.Namespace, clock: Clock, name: str
) -> tuple[dict[tuple[str, str], np.ndarray], list[float]]:
    """Errors ``[nets, times, chips]`` by training and compensation, and the error of each float net."""
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    exact = []
    for seed in options.seeds:
        torch.manual_seed(seed)
        model = train_float(task, options)
        exact.append(task.error(model))
        for training, (compensation, (before, expected)) in itertools.product(TRAININGS, COMPENSATIONS.items()):
            if training == "drift-aware" or compensation == next(iter(COMPENSATIONS)):
                torch.manual_seed(seed)
                net = prepared(model, task, training, expected, options)
            report = accuracy_over_time(
                net, task.error, options.times, chips=options.chips, seed=seed, compensation=before, progress=False
            )
            found.setdefault((training, compensation), []).append(report.values)
            shown = " ".join(f"{error:.2%}" for error in report.mean())
            clock.say(f"{name}, net {seed}, training {training}, compensation {compensation}: {shown}")
    return {key: np.stack(values) for key, values in found.items()}, exact


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
    """Convert a net, calibrate its converters, and train it for the chip unless ``training`` is ``"none"``.

    Only drift-aware training knows the compensation that the chip is expected to have.
    """
    net = pg.convert(model, standard_tile())
    if training == "none":
        return pg.hwa.calibrate(net, task.train, recipe=None).eval()
    recipe = pg.hwa.Recipe(noise=pg.hwa.PCMNoise(strength=1.0), clip_sigma=options.clip)
    if training == "drift-aware":
        recipe = pg.hwa.Recipe(age=AGES, compensation=expected, clip_sigma=options.clip)
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


def interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of ``[nets, chips]``, from Student's t.

    Chips of one net share its training, so the means of nets are the independent values; a single net says nothing about
    other trainings, so that its interval is that of chips alone.
    """
    units = values.mean(1) if len(values) > 1 else values[0]
    if len(units) < 2:
        return float(units.mean()), float(units.mean())
    student = _STUDENT[len(units) - 2] if len(units) <= len(_STUDENT) + 1 else 1.96
    half = student * units.std(ddof=1) / len(units) ** 0.5
    return float(units.mean() - half), float(units.mean() + half)


def summary(
    name: str, errors: Mapping[tuple[str, str], np.ndarray], options: argparse.Namespace
) -> list[dict[str, object]]:
    """One row per training, compensation and time."""
    rows: list[dict[str, object]] = []
    for (training, compensation), values in errors.items():
        for time, at in zip(options.times, values.transpose(1, 0, 2), strict=True):
            low, high = interval(at)
            rows.append({
                "data": name, "training": training, "compensation": compensation, "time_s": time,
                "method": f"{name}, {training}, compensation {compensation}", "mean": float(at.mean()),
                "sd": float(at.std(ddof=1)), "low": low, "high": high, "worst": float(at.max()), "chips": at.size,
                "by_net": [round(float(m), 6) for m in at.mean(1)],
            })  # fmt: skip
    return rows


def table(rows: Sequence[Mapping[str, object]], exact: Mapping[str, Sequence[float]]) -> str:
    """Test errors in percent, with their 95 % intervals."""
    lines = []
    for name, values in exact.items():
        times = sorted({float(row["time_s"]) for row in rows})  # type: ignore[arg-type]
        cells = [["training", "compensation", *map(format_time, times)]]
        for training, compensation in itertools.product(TRAININGS, COMPENSATIONS):
            chosen = [
                r for r in rows if (r["data"], r["training"], r["compensation"]) == (name, training, compensation)
            ]
            shown = [f"{100 * r['mean']:.2f} ({100 * r['low']:.2f}-{100 * r['high']:.2f})" for r in chosen]  # type: ignore[operator]
            cells.append([training, compensation, *shown])
        lines += [
            f"{name}: test error (%) and its 95 % interval; float {100 * np.mean(values):.2f}",
            *aligned(cells),
            "",
        ]
    return "\n".join(lines).rstrip()


def write(
    folder: Path, rows: list[dict[str, object]], exact: Mapping[str, Sequence[float]], options: argparse.Namespace
) -> list[Path]:
    """Write the results and the picture; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"result.{ending}" for ending in ("json", "csv", "png")]
    means = {name: float(np.mean(values)) for name, values in exact.items()}
    settings = {k: v for k, v in vars(options).items() if k not in ("out", "data")}
    content = {
        "experiment": "error of two-layer networks on PCM over years", "published": PUBLISHED, "seeds": options.seeds,
        "rows": rows, "float": means, "settings": settings, "command": " ".join(["python examples/years.py", *options.line]),
    }  # fmt: skip
    paths[0].write_text(json.dumps(content, indent=1) + "\n")
    with paths[1].open("w", newline="") as file:
        writer = csv.DictWriter(
            file, [key for key in rows[0] if key not in ("method", "by_net")], extrasaction="ignore"
        )
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, means, paths[2])
    return paths


def draw(rows: Sequence[Mapping[str, object]], exact: Mapping[str, float], path: Path) -> None:
    """Draw the error over time: a colour per training, a line style per compensation, the 95 % interval shaded."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(exact), figsize=(5.2 * len(exact), 4.2), squeeze=False)
    colours, styles = ("#888888", "#d1495b", "#00798c"), itertools.cycle(("-", "--", ":", "-."))
    style = dict(zip(COMPENSATIONS, styles, strict=False))
    for axis, (name, error) in zip(axes[0], exact.items(), strict=True):
        for (training, colour), kind in itertools.product(zip(TRAININGS, colours, strict=True), COMPENSATIONS):
            chosen = [r for r in rows if (r["data"], r["training"], r["compensation"]) == (name, training, kind)]
            times, mean, low, high = ([r[key] for r in chosen] for key in ("time_s", "mean", "low", "high"))
            percent = [100 * np.array(v, float) for v in (mean, low, high)]
            axis.plot(times, percent[0], style[kind], color=colour, marker=".", label=f"{training} / {kind}")
            axis.fill_between(times, *percent[1:], color=colour, alpha=0.15, linewidth=0)
        axis.axhline(100 * error, color="black", linewidth=0.8)
        axis.set(xscale="log", yscale="log", title=name, xlabel="time since programming (s)", ylabel="test error (%)")
    axes[0][0].legend(title="training / compensation", fontsize=7, title_fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, default=Path("out/years"), help="folder for the results")
    parser.add_argument("--data", type=Path, default=None, help="folder with the four files of a data set")
    parser.add_argument("--data-sets", nargs="+", choices=sorted(DATA), default=list(DATA), help="data sets")
    parser.add_argument("--hidden", type=at_least(1), default=32, help="width of the hidden layer")
    parser.add_argument("--batch", type=at_least(1), default=200, help="images per step")
    parser.add_argument("--float-epochs", type=at_least(1), default=10, help="passes of the float training")
    parser.add_argument("--float-lr", type=float, default=3e-3, help="initial learning rate of the float training")
    parser.add_argument("--epochs", type=at_least(1), default=6, help="passes of the training for the chip")
    parser.add_argument("--lr", type=float, default=2e-3, help="initial learning rate of the training for the chip")
    parser.add_argument("--clip", type=float, default=2.5, help="clipping of the weights in root mean squares")
    parser.add_argument("--chips", type=at_least(1), default=40, help="chips per network")
    parser.add_argument("--times", type=float, nargs="+", default=list(TIMES), help="times since programming [s]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="seeds of the networks")
    parser.add_argument("--train-images", type=at_least(1), default=60_000, help="training images to use")
    parser.add_argument("--test-images", type=at_least(1), default=10_000, help="test images to use")
    parser.add_argument("--quick", action="store_true", help="one net, few images and chips, to try the script")
    line = list(sys.argv[1:] if arguments is None else arguments)
    if "--quick" in line:
        small = {"float_epochs": 2, "epochs": 1, "chips": 2, "seeds": [0], "train_images": 2000, "test_images": 500}
        parser.set_defaults(**small, times=[1.0, 5.0 * YEAR])
    options = parser.parse_args(line)
    options.line = line
    return options


if __name__ == "__main__":
    main()
