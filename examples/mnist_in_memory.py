"""Train an MNIST network in memory: its weights are device conductances, which pulses update.

Trains the same network twice, in float and on devices, from the same initial weights and with the same batches. Prints
the test accuracy after every epoch, and writes report.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from _data import DataUnavailableError, Mnist, mnist
from torch import Tensor, nn

import phasegrad as pg

PRESETS = {
    "constant": pg.presets.constant_step_training,
    "soft-bounds": pg.presets.soft_bounds_training,
    "pcm-pair": pg.presets.pcm_pair_training,
    "multi-memristive": pg.presets.multi_memristive_training,
    "pcm-capacitor": pg.presets.pcm_capacitor_training,
    "two-arrays": pg.presets.tiki_taka_training,
}

OPTIMISERS = {
    "sgd": pg.optim.AnalogSGD,
    "mixed-precision": pg.optim.MixedPrecision,
    "tiki-taka": pg.optim.TikiTaka,
    "ttv2": pg.optim.TikiTakaV2,
    "c-ttv2": pg.optim.ChoppedTikiTakaV2,
    "agad": pg.optim.AGAD,
}


def main() -> None:
    """Train in float and on devices, and compare."""
    options = parse()
    try:
        data = mnist(options.data)
    except DataUnavailableError as error:
        sys.exit(str(error))
    torch.manual_seed(options.seed)
    start = network(options.layers)
    results = {}
    analog = pg.convert(start, PRESETS[options.device]())  # a copy, so that both have the same initial weights
    if not options.no_float:
        results["float"] = train(start, data, options, torch.optim.SGD)
    print(pg.summary(analog))
    results[options.device] = train(analog, data, options, OPTIMISERS[options.algorithm])
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "report.json"
    path.write_text(
        json.dumps({"options": {k: str(v) for k, v in vars(options).items()}, "accuracy": results}, indent=2)
    )
    print(f"wrote {path}")


def network(sizes: list[int]) -> nn.Sequential:
    """A multi-layer perceptron with sigmoids between its layers."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.Sigmoid()]
    return nn.Sequential(*layers[:-1])


def train(
    net: nn.Module, data: Mnist, options: argparse.Namespace, optimiser: Callable[..., torch.optim.Optimizer]
) -> list[float]:
    """Train a net in place; return the test accuracy after each epoch."""
    step = optimiser(net.parameters(), lr=options.lr)
    schedule = torch.optim.lr_scheduler.ExponentialLR(step, options.decay)
    images, labels = prepare(data.train_images[: options.train_images]), data.train_labels[: options.train_images]
    name, accuracies = type(step).__name__, []
    generator = torch.Generator().manual_seed(options.seed)
    for epoch in range(options.epochs):
        started, steps = time.perf_counter(), 0
        for picked in torch.randperm(len(images), generator=generator).split(options.batch):
            step.zero_grad()
            F.cross_entropy(net(images[picked]), labels[picked]).backward()
            step.step()
            steps += 1
        seconds = time.perf_counter() - started
        schedule.step()
        accuracies.append(accuracy(net, prepare(data.test_images), data.test_labels))
        print(
            f"{name}, epoch {epoch + 1}/{options.epochs}: test accuracy {accuracies[-1]:.2%}, "
            f"{1e6 * seconds / steps:.0f} µs per step of {options.batch} images",
            flush=True,
        )
    return accuracies


def prepare(images: Tensor) -> Tensor:
    """Scale pixels to [0, 1]."""
    return images.float() / 255.0


@torch.no_grad()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Fraction of images that the net classifies correctly."""
    correct = sum(
        int((net(x).argmax(1) == y).sum()) for x, y in zip(images.split(1000), labels.split(1000), strict=True)
    )
    return correct / len(images)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--device", choices=list(PRESETS), default="constant", help="device preset")
    parser.add_argument(
        "--algorithm",
        choices=list(OPTIMISERS),
        default="sgd",
        help="update algorithm; tiki-taka, ttv2, c-ttv2 and agad require --device two-arrays",
    )
    parser.add_argument("--layers", type=int, nargs="+", default=[784, 256, 128, 10], help="sizes of the layers")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=10, help="images per step")
    parser.add_argument("--lr", type=float, default=0.1, help="learning rate for the mean loss of a batch")
    parser.add_argument("--decay", type=float, default=0.9, help="factor of the learning rate after each epoch")
    parser.add_argument("--train-images", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-float", action="store_true", help="skip the float training")
    parser.add_argument("--data", type=Path, default=None, help="folder with the MNIST files; fetched by default")
    parser.add_argument("--out", type=Path, default=Path("out/mnist_in_memory"), help="folder for the report")
    return parser.parse_args()


if __name__ == "__main__":
    main()
