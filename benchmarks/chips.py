"""Chips of the MNIST example on 10,000 images at five ages, against the float network that has the same products.

The network is that of ``examples/mnist.py`` with calibrated converters and the standard inference preset: DAC, read
noise of every device, output noise and ADC. Images and weights are random, on which nothing here depends: no data set
is read. ``chips`` are programmed, aged, compensated and evaluated by ``accuracy_over_time``; the baseline computes the
same outputs of the float network, and the bare convolutions and products alone, as many times. All figures are seconds
per chip and age, of one thread. The whole is 100 chips, of which FEW are measured: they do the same work.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import phasegrad as pg
from benchmarks.harness import Figure

FEW, ROUNDS, IMAGES, BATCH = 1, 3, 10_000, 500
TIMES = (1.0, 3600.0, 86_400.0, 2.6e6, 3.15e7)


class LeNet(nn.Module):
    """The network of ``examples/mnist.py``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 5), nn.Conv2d(8, 16, 5)
        self.fc1, self.fc2 = nn.Linear(256, 96), nn.Linear(96, 10)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Scores ``[n, 10]`` of images ``[n, 1, 28, 28]``."""
        x = F.relu(F.max_pool2d(self.conv1(images), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def figures() -> list[Figure]:
    """Measure chips, the float network and its products, alternately."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _figures()
    finally:
        torch.set_num_threads(threads)


def _figures() -> list[Figure]:
    model, images = LeNet().eval(), torch.randn(IMAGES, 1, 28, 28)
    batches = images.split(BATCH)
    net = pg.hwa.calibrate(pg.convert(model, pg.presets.pcm_inference()), [batches[0]], recipe=None).eval()

    @torch.inference_mode()
    def evaluate(chip: nn.Module) -> float:
        return float(torch.cat([chip(batch).argmax(1) for batch in batches]).double().mean())

    products = _products(model, batches[0])
    count = FEW * len(TIMES)
    cases: dict[str, Callable[[], object]] = {
        "chips": lambda: pg.inference.accuracy_over_time(net, evaluate, TIMES, chips=FEW, progress=False),
        "network": lambda: [evaluate(model) for _ in range(count)],
        "products": lambda: [products() for _ in range(count * len(batches))],
    }
    spent: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, run in cases.items():
            spent[name].append(_time(run) / count)
    chips, network, bare = (statistics.median(spent[name]) for name in cases)
    ratios = [[a / b for a, b in zip(spent["chips"], spent[other], strict=True)] for other in ("network", "products")]
    case = f"chips LeNet-5 {IMAGES} images, 5 ages"
    return [
        Figure(f"{case}, network", chips, "s", "float network", network, statistics.median(ratios[0]), "at most 1.5"),
        Figure(f"{case}, products", chips, "s", "bare products", bare, statistics.median(ratios[1]), "at most 1.5"),
    ]


def _products(model: LeNet, images: Tensor) -> Callable[[], object]:
    """The convolutions and products of a batch alone, on inputs that were computed before."""
    known: list[tuple[nn.Module, Tensor]] = []
    layers = [m for m in model.children() if isinstance(m, (nn.Conv2d, nn.Linear))]
    hooks = [m.register_forward_pre_hook(lambda m, x: known.append((m, x[0]))) for m in layers]
    with torch.inference_mode():
        model(images)
    for hook in hooks:
        hook.remove()

    @torch.inference_mode()
    def run() -> None:
        for layer, x in known:
            layer(x)

    return run


def _time(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start
