"""How good must converters and wires be? Accuracy of an MNIST network against ADC bits, tile rows and wire resistance.

Trains a small LeNet-5 in float (once; later runs load it from the cache), converts it to each hardware of the grid,
calibrates its converters on training images, programs PCM chips, and reads them a second later with the exact IR drop.
There is no fine-tuning: the result is the effect of the hardware on a float network. Writes design_space.csv, with one
row per chip, and design_space.png, a heat map.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _data import DataUnavailableError, Mnist, mnist
from _lenet import LeNet, accuracy, normalise, train_float
from torch import Tensor

import phasegrad as pg
from phasegrad.crossbar import Adc, CalibratedRange, Wires


class Point(NamedTuple):
    """A point of the grid."""

    ohms: float
    """Resistance of a segment of the word and bit lines, between neighbouring cells [ohm]."""
    rows: int
    """Rows per tile."""
    bits: int
    """Resolution of the ADC."""


def hardware(point: Point) -> pg.Hardware:
    """The standard inference tile with the point's wires, rows and converters."""
    return dataclasses.replace(
        pg.presets.pcm_inference(),
        rows=point.rows,
        adc=Adc(bits=point.bits, range=CalibratedRange(percentile=99.9)),
        wires=Wires(word_line=point.ohms, bit_line=point.ohms) if point.ohms else None,
    )


def measure(net: LeNet, data: Mnist, point: Point, options: argparse.Namespace) -> list[float]:
    """Accuracy of every chip, one second after programming."""
    torch.manual_seed(options.seed)
    converted = pg.convert(net, hardware(point))
    pg.hwa.calibrate(converted, batches(data), batches=10, recipe=None)
    images, labels = data.test_images[: options.test_images], data.test_labels[: options.test_images]
    report = pg.inference.accuracy_over_time(
        converted.eval(), lambda chip: accuracy(chip, images, labels), (1.0,), chips=options.chips,
        seed=options.seed, progress=False,
    )  # fmt: skip
    return [float(a) for a in report.values[0]]


def batches(data: Mnist) -> Iterator[tuple[Tensor, Tensor]]:
    """Training images, normalised, 128 at a time."""
    for images, labels in zip(data.train_images.split(128), data.train_labels.split(128), strict=True):
        yield normalise(images), labels


def write_csv(path: Path, results: dict[Point, list[float]]) -> None:
    """Write one row per chip."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("wire_ohm", "tile_rows", "adc_bits", "chip", "accuracy"))
        writer.writerows((*point, i, a) for point, chips in results.items() for i, a in enumerate(chips))


def draw(path: Path, results: dict[Point, list[float]], exact: float) -> Any:
    """Draw tile rows against ADC bits, with one panel per resistance and a common colour scale."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    ohms, rows, bits = (sorted({point[i] for point in results}) for i in range(3))
    with mpl.rc_context({"font.size": 9}):
        size = (1.6 + 0.42 * len(bits) * len(ohms), 0.9 + 0.42 * len(rows))
        figure = Figure(figsize=size, dpi=200, layout="constrained")
        panels = figure.subplots(1, len(ohms), sharey=True, squeeze=False)[0]
        means = {point: 100.0 * statistics.mean(chips) for point, chips in results.items()}
        image = None
        for axes, ohm in zip(panels, ohms, strict=True):
            values = [[means[Point(ohm, r, b)] for b in bits] for r in rows]
            image = axes.imshow(values, origin="lower", cmap="cividis", vmin=min(means.values()), vmax=100.0 * exact)
            axes.set_xticks(range(len(bits)), bits)
            axes.set_yticks(range(len(rows)), rows)
            axes.tick_params(length=0)
            axes.set_title(f"{ohm:g} Ω per cell" if ohm else "ideal wires", fontsize=9)
            axes.set_xlabel("ADC bits")
            for (i, line), j in itertools.product(enumerate(values), range(len(bits))):
                dark = line[j] < 0.5 * (min(means.values()) + 100.0 * exact)
                axes.text(j, i, f"{line[j]:.0f}", ha="center", va="center", fontsize=6.5,
                          color="white" if dark else "black")  # fmt: skip
        panels[0].set_ylabel("rows per tile")
        assert image is not None
        figure.colorbar(image, ax=panels, label=f"accuracy (%), float {100.0 * exact:.1f}", pad=0.01)
        figure.savefig(path)
    return figure


def main() -> None:
    """Measure every point of the grid."""
    options = parse()
    started = time.perf_counter()
    try:
        data = mnist(options.data)
    except DataUnavailableError as error:
        sys.exit(str(error))
    net = train_float(data, seed=options.seed, progress=not options.quiet)
    exact = accuracy(net, data.test_images[: options.test_images], data.test_labels[: options.test_images])
    results: dict[Point, list[float]] = {}
    for point in itertools.starmap(Point, itertools.product(options.ohms, options.rows, options.bits)):
        results[point] = measure(net, data, point, options)
        if not options.quiet:
            mean = statistics.mean(results[point])
            print(f"[{time.perf_counter() - started:5.0f} s] {point}: mean accuracy {mean:.2%}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    table, picture = options.out / "design_space.csv", options.out / "design_space.png"
    write_csv(table, results)
    draw(picture, results, exact)
    print(f"float accuracy: {exact:.2%}\nwrote {table}\nwrote {picture}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 3, 4, 5, 6, 8], help="bits of the ADC")
    parser.add_argument("--rows", type=int, nargs="+", default=[32, 64, 128, 256], help="rows per tile")
    parser.add_argument(
        "--ohms",
        type=float,
        nargs="+",
        default=[0.0, 5.0, 20.0, 50.0],
        help="resistance of a wire segment between cells; 0 for ideal wires",
    )
    parser.add_argument("--chips", type=int, default=3, help="chips per point")
    parser.add_argument("--test-images", type=int, default=2000, help="test images to use")
    parser.add_argument("--seed", type=int, default=0, help="seed of training, chips and noise")
    parser.add_argument("--out", type=Path, default=Path("out/design_space"), help="folder for the results")
    parser.add_argument("--data", type=Path, default=None, help="folder with the four MNIST files")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    return parser.parse_args()


if __name__ == "__main__":
    main()
