"""What does accuracy cost? Accuracy after a month against energy per inference, over converters, tiles and devices.

Takes a small LeNet-5 for MNIST and a residual network for CIFAR-10, trained in float (once; later runs load them),
puts each on every hardware of a grid of ADC bits, tile sizes and devices per weight, calibrates the converters,
programs PCM chips, and reads them after a month with drift compensation. The energy is that of the same chips at the
same age, with the constants of a published chip. Writes pareto.csv, with one row per network and hardware, and
pareto.png, with the Pareto fronts. There is no fine-tuning: the result is the effect of the hardware on float networks.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import _lenet
import _resnet
import cifar10 as residual
import torch
from _data import DataUnavailableError, cifar10, mnist
from _fetch import cache_folder
from _report import Clock, at_least
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.cost import Activity, Constant, Estimate, Technology
from phasegrad.crossbar import Adc, CalibratedRange

MONTH = 2.592e6
"""Age of the chips [s]."""


class Network(NamedTuple):
    """A float network, and how to use it."""

    name: str
    net: nn.Module
    calibration: list[Tensor]
    """Batches of training images, normalised."""
    accuracy: Callable[[nn.Module], float]
    adapt: Callable[[nn.Module], nn.Module]
    """What is done to an aged chip before it is used."""
    reach: float
    """Input range in root mean squares."""


class Point(NamedTuple):
    """A point of the grid."""

    bits: int
    """Resolution of the ADC."""
    size: int
    """Rows and columns of a tile."""
    devices: int
    """Devices per weight."""


class Result(NamedTuple):
    """A network on the hardware of a point."""

    network: str
    point: Point
    accuracies: tuple[float, ...]
    estimate: Estimate

    @property
    def accuracy(self) -> float:
        """Mean accuracy of the chips."""
        return statistics.mean(self.accuracies)

    @property
    def energy(self) -> float:
        """Energy per image [J]."""
        return self.estimate.energy / self.estimate.samples


def hardware(point: Point) -> pg.Hardware:
    """Tiles with devices and noise of the HERMES core, and the point's size, converters and devices per weight."""
    core = pg.presets.hermes_inference()
    cell = pg.cells.SignificancePairs(device=core.cell.device, significances=(1.0,) * (point.devices // 2))
    adc = Adc(bits=point.bits, range=CalibratedRange(percentile=99.9))
    return dataclasses.replace(core, cell=cell, rows=point.size, columns=point.size, adc=adc)


def technology(point: Point) -> Technology:
    """The constants of the 64-core chip: power in proportion to the columns of a tile, area to its cells."""
    chip, share = pg.cost.hermes_64_core(), point.size / 256
    power, area = chip.constant("tile_power"), chip.constant("tile_area")
    assert power is not None
    assert area is not None
    return dataclasses.replace(
        chip,
        tile_power=Constant(value=power.value * share, source=f"per column; {power.source}", origin="assumed"),
        tile_area=Constant(value=area.value * share**2, source=f"per cell; {area.source}", origin="assumed"),
    )


def measure(network: Network, point: Point, options: argparse.Namespace) -> Result:
    """Accuracy of chips after a month, and the cost of the first of them."""
    torch.manual_seed(options.seed)
    net = pg.convert(network.net, hardware(point))
    pg.hwa.calibrate(net, network.calibration, recipe=None, sd=network.reach)
    net.eval()
    image, accuracies, estimate = network.calibration[0][:1], [], None
    activity = pg.cost.measure_activity(net, network.calibration[:1])
    for seed in range(options.seed, options.seed + options.chips):
        chip = pg.inference.age(pg.inference.program(net, seed=seed), MONTH)
        chip = network.adapt(pg.inference.compensate(chip, seed=seed))
        accuracies.append(network.accuracy(chip))
        if estimate is None:
            estimate = price(chip, image, activity, point)
    assert estimate is not None
    return Result(network.name, point, tuple(accuracies), estimate)


def price(chip: nn.Module, image: Tensor, activity: Activity, point: Point) -> Estimate:
    """The cost on a chip with the area of 64 cores, on which the slowest layers have several copies."""
    options: dict[str, Any] = {"technology": technology(point), "activity": activity, "pipelined": True}
    single = pg.cost.estimate(chip, image, **options)
    tiles = max(single.tiles, round(64 * (256 / point.size) ** 2))
    return pg.cost.estimate(chip, image, replicas=single.replicas_for(tiles), **options)


def lenet(options: argparse.Namespace) -> Network:
    """LeNet-5 for MNIST."""
    data = mnist(options.mnist)
    net = _lenet.train_float(data, seed=options.seed, progress=not options.quiet)
    images, labels = data.test_images[: options.test_images], data.test_labels[: options.test_images]
    batches = [_lenet.normalise(part) for part in data.train_images[: 128 * options.calibration].split(128)]
    return Network(
        "MNIST, LeNet-5", net, batches, lambda chip: _lenet.accuracy(chip, images, labels), lambda chip: chip, 3.0
    )  # fmt: skip


def resnet(options: argparse.Namespace) -> Network:
    """A residual network for CIFAR-10, whose batch-norm statistics are estimated again on each chip."""
    data = cifar10(options.cifar10)
    net, _ = residual.train(data, options)
    images, labels = data.test_images[: options.test_images], data.test_labels[: options.test_images]
    batches = residual.calibration(data, options)[: options.calibration]
    return Network(
        f"CIFAR-10, ResNet-{options.depth}",
        net.eval(),
        batches,
        lambda chip: _resnet.accuracy(chip, images, labels),
        lambda chip: pg.inference.reestimate_batchnorm(chip, batches),
        8.0,
    )


def front(results: Sequence[Result]) -> list[Result]:
    """The results of a network that no other result beats in both accuracy and energy, by energy."""
    best, found = -1.0, []
    for result in sorted(results, key=lambda r: (r.energy, -r.accuracy)):
        if result.accuracy > best:
            best = result.accuracy
            found.append(result)
    return found


def table(results: Sequence[Result], exact: dict[str, float]) -> list[dict[str, Any]]:
    """One row per network and point, as pareto.csv stores them."""
    fronts = {id(r) for name in exact for r in front([r for r in results if r.network == name])}
    return [
        {
            "network": r.network,
            "adc_bits": r.point.bits,
            "tile": r.point.size,
            "devices_per_weight": r.point.devices,
            "chips": len(r.accuracies),
            "accuracy": r.accuracy,
            "accuracy_sd": statistics.stdev(r.accuracies) if len(r.accuracies) > 1 else 0.0,
            "float_accuracy": exact[r.network],
            "energy_J": r.energy,
            "interval_s": r.estimate.interval,
            "tiles": r.estimate.tiles,
            "area_m2": r.estimate.area,
            "on_front": int(id(r) in fronts),
        }
        for r in results
    ]


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows of a table."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, Any]]:
    """The rows of a table that was written."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {k: v if k == "network" else float(v) if "." in v or "e" in v else int(v) for k, v in r.items()} for r in rows
    ]


def draw(path: Path, rows: Sequence[dict[str, Any]]) -> Any:
    """Draw accuracy against energy, a panel per network: colour is ADC bits, shape devices, size the tile."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(r["network"] for r in rows))
    bits, sizes, devices = (sorted({r[key] for r in rows}) for key in ("adc_bits", "tile", "devices_per_weight"))
    figure = Figure(figsize=(4.6 * len(names) + 1.6, 4.2), dpi=160, layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    shapes, colours = dict(zip(devices, "osD^v", strict=False)), colormaps["viridis"]
    for axes, name in zip(panels, names, strict=True):
        own = [r for r in rows if r["network"] == name]
        for r in own:
            colour = colours(0.95 * bits.index(r["adc_bits"]) / max(1, len(bits) - 1))
            size = (14.0 + 26.0 * sizes.index(r["tile"])) ** 0.5
            axes.errorbar(
                1e6 * r["energy_J"], 100 * r["accuracy"], 100 * r["accuracy_sd"], color=colour, lw=0.8, ms=size,
                marker=shapes[r["devices_per_weight"]], mec="white", mew=0.5,
            )  # fmt: skip
        best = sorted((r for r in own if r["on_front"]), key=lambda r: r["energy_J"])
        steps = [1e6 * r["energy_J"] for r in best], [100 * r["accuracy"] for r in best]
        axes.step(*steps, where="post", color="0.3", lw=1.0, zorder=1)
        axes.axhline(100 * own[0]["float_accuracy"], color="0.25", lw=0.8, ls=(0, (5, 3)))
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.tick_params(which="both", labelsize=8)
        axes.set_xlabel("energy per image (µJ)")
        axes.set_title(name, fontsize=10)
        axes.grid(which="both", color="0.92", lw=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy after a month (%)")
    _legend(panels[-1], bits, sizes, shapes, colours)
    figure.savefig(path)
    return figure


def _legend(axes: Any, bits: Sequence[int], sizes: Sequence[int], shapes: dict[int, str], colours: Any) -> None:
    from matplotlib.lines import Line2D

    def entry(label: str, **style: Any) -> Any:
        return Line2D([], [], ls="", label=label, **{"marker": "o", "color": "0.4", "ms": 5, **style})

    entries = [entry("ADC", marker="")]
    entries += [entry(f"{b} bits", color=colours(0.95 * i / max(1, len(bits) - 1))) for i, b in enumerate(bits)]
    entries += [entry("tile", marker="")]
    entries += [entry(f"{s} x {s}", ms=(14 + 26 * i) ** 0.5) for i, s in enumerate(sizes)]
    entries += [entry("devices per weight", marker="")]
    entries += [entry(f"{d}", marker=shape) for d, shape in shapes.items()]
    entries += [entry("", marker=""), Line2D([], [], color="0.3", lw=1.0, label="Pareto front"),
                Line2D([], [], color="0.25", lw=0.8, ls=(0, (5, 3)), label="float"),
                Line2D([], [], color="0.4", lw=0.8, marker="|", ms=0, label="± SD of chips")]  # fmt: skip
    axes.legend(handles=entries, frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.03))


def main() -> None:
    """Measure every point of the grid for both networks."""
    options = parse()
    csv_file, picture = options.out / "pareto.csv", options.out / "pareto.png"
    if options.redraw:
        draw(picture, read_csv(csv_file))
        return
    clock, results, exact = Clock(), [], {}
    for make in (lenet, resnet):
        try:
            network = make(options)
        except DataUnavailableError as error:
            sys.exit(str(error))
        exact[network.name] = network.accuracy(network.net)
        clock.say(f"{network.name}: float accuracy {exact[network.name]:.2%}")
        for point in itertools.starmap(Point, itertools.product(options.bits, options.sizes, options.devices)):
            result = measure(network, point, options)
            results.append(result)
            clock.say(f"{network.name}, {point}: {result.accuracy:.2%}, {1e6 * result.energy:.3g} uJ per image")
    options.out.mkdir(parents=True, exist_ok=True)
    rows = table(results, exact)
    write_csv(csv_file, rows)
    draw(picture, rows)
    print(f"wrote {csv_file}\nwrote {picture}")


def even(text: str) -> int:
    """An even number of devices, which make pairs."""
    if int(text) < 2 or int(text) % 2:
        raise argparse.ArgumentTypeError(f"{text} is no even number of at least 2")
    return int(text)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--quick", action="store_true", help="a small grid and little training")
    parser.add_argument("--out", type=Path, default=Path("out/pareto"), help="folder for the results")
    parser.add_argument("--redraw", action="store_true", help="draw the pareto.csv in --out again, and compute nothing")
    parser.add_argument("--mnist", type=Path, default=None, help="folder with the four MNIST files")
    parser.add_argument("--cifar10", type=Path, default=None, help="folder with the six CIFAR-10 files")
    parser.add_argument("--quiet", action="store_true", help="show no progress of trainings")
    group = parser.add_argument_group("grid")
    group.add_argument("--bits", type=at_least(2), nargs="+", default=[4, 5, 6, 7, 8], help="bits of the ADC")
    group.add_argument("--sizes", type=at_least(1), nargs="+", default=[64, 128, 256], help="rows, columns of a tile")
    group.add_argument("--devices", type=even, nargs="+", default=[2, 4, 8], help="devices per weight, even")
    group.add_argument("--chips", type=at_least(1), default=3, help="chips per point")
    group.add_argument("--test-images", type=at_least(1), default=2000, help="test images to use")
    group.add_argument("--seed", type=int, default=0, help="seed of training, chips and noise")
    group.add_argument("--calibration", type=at_least(1), default=20, help="batches for calibration, at most 20")
    group = parser.add_argument_group("training of the residual network")
    group.add_argument("--depth", type=int, default=20, help="layers: 8, 14, 20, ...")
    group.add_argument("--width", type=at_least(1), default=16, help="channels of the first layers")
    group.add_argument("--float-epochs", type=at_least(1), default=24, help="passes over the training images")
    group.add_argument("--float-lr", type=float, default=0.2, help="peak learning rate of one cycle")
    group.add_argument("--batch", type=at_least(2), default=128, help="images per step")
    group.add_argument("--train-images", type=at_least(128), default=50_000, help="training images to use")
    group.add_argument("--runs", type=Path, default=cache_folder() / "runs", help="folder for the checkpoints")
    options = parser.parse_args()
    if options.quick:
        quick = {"bits": [4, 8], "sizes": [64, 256], "devices": [2], "chips": 1, "test_images": 300}
        training = {"calibration": 3, "depth": 8, "width": 8, "float_epochs": 1, "train_images": 2560}
        parser.set_defaults(**quick, **training)
        options = parser.parse_args()
    return options


if __name__ == "__main__":
    main()
