"""An in-memory training step against float SGD and aihwkit: 784-256-128-10, batches of 10, sparse inputs.

One figure is that of a depthwise convolution, 3 x 3 on 64 channels of 32 x 32 pixels, batches of 16.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

import phasegrad as pg
from benchmarks import aihwkit_counterparts
from benchmarks.harness import Figure, side_by_side

DEVICES = {
    "constant": (pg.presets.constant_step_training, "at most 2.5"),
    "soft-bounds": (pg.presets.soft_bounds_training, "-"),
    "pcm-pair": (pg.presets.pcm_pair_training, "at most 3"),
    "pcm-capacitor": (pg.presets.pcm_capacitor_training, "at most 4"),
    "multi-memristive": (pg.presets.multi_memristive_training, "at most 4"),
}
ALGORITHMS = {
    "Tiki-Taka": pg.optim.TikiTaka,
    "TTv2": pg.optim.TikiTakaV2,
    "c-TTv2": pg.optim.ChoppedTikiTakaV2,
    "AGAD": pg.optim.AGAD,
}
IN_AIHWKIT = ("constant", "pcm-pair")
# Both transfer one row per sample on average.
TRANSFERS = {"": {}, " 40 rows at a time": {"transfer_every": 40, "rows": 40}}


def network() -> nn.Sequential:
    """The network of Gokmen and Vlasov (2016)."""
    sizes = (784, 256, 128, 10)
    layers = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), nn.Sigmoid())]
    return nn.Sequential(*layers[:-1])


def step(net: nn.Module, optimiser: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """A whole step on a fixed batch."""

    def run() -> None:
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimiser.step()

    return run


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Ten images and their classes; a fifth of the pixels are not zero, as in MNIST."""
    return torch.rand(10, 784) * (torch.rand(10, 784) < 0.2), torch.randint(0, 10, (10,))


def figures() -> list[Figure]:
    """Measure every device and algorithm."""
    plain = [figure(name, preset(), pg.optim.AnalogSGD, 0.1, target) for name, (preset, target) in DEVICES.items()]
    two_arrays = pg.presets.tiki_taka_training()
    family = [
        figure(f"{name}{case}", two_arrays, functools.partial(algorithm, pulses=0.3, **when), 0.02, "at most 4")
        for case, when in TRANSFERS.items()
        for name, algorithm in ALGORITHMS.items()
    ]
    mixed = figure("mixed precision", pg.presets.pcm_pair_training(), pg.optim.MixedPrecision, 0.1, "at most 4")
    counterparts = map(counterpart, IN_AIHWKIT) if aihwkit_counterparts.AVAILABLE else ()
    return [*plain, mixed, *family, depthwise(), *counterparts]


def figure(
    name: str, hardware: pg.Hardware, optimiser: Callable[..., torch.optim.Optimizer], lr: float, target: str
) -> Figure:
    """Measure one network against its float counterpart."""
    torch.manual_seed(0)
    x, y = batch()
    digital = network()
    analog = pg.convert(digital, hardware)
    ours = step(analog, optimiser(analog.parameters(), lr=lr), x, y)
    theirs = step(digital, torch.optim.SGD(digital.parameters(), lr=0.1), x, y)
    a, b, ratio = side_by_side(ours, theirs, 200)
    return Figure(f"in-memory step {name}", a * 1e6, "us", "float SGD", b * 1e6, ratio, target)


def depthwise() -> Figure:
    """Measure a depthwise convolution, whose million samples of a batch each drive one of its 64 outputs."""
    torch.manual_seed(0)
    digital = nn.Sequential(nn.Conv2d(64, 64, 3, groups=64, padding=1))
    analog, x = pg.convert(digital, pg.presets.constant_step_training()), torch.randn(16, 64, 32, 32)

    def run(net: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        optimiser.zero_grad()
        net(x).square().mean().backward()
        optimiser.step()

    ours, theirs = pg.optim.AnalogSGD(analog.parameters(), lr=0.1), torch.optim.SGD(digital.parameters(), lr=0.1)
    a, b, ratio = side_by_side(lambda: run(analog, ours), lambda: run(digital, theirs), 20)
    return Figure("in-memory step depthwise", a * 1e6, "us", "float SGD", b * 1e6, ratio, "at most 6")


def counterpart(name: str) -> Figure:
    """Measure one network against the same in aihwkit, at the same learning rate."""
    torch.manual_seed(0)
    x, y = batch()
    digital = network()
    analog = pg.convert(digital, DEVICES[name][0]())
    ours = step(analog, pg.optim.AnalogSGD(analog.parameters(), lr=0.1), x, y)
    a, b, ratio = side_by_side(ours, aihwkit_counterparts.step(name, digital, x, y, 0.1), 50)
    return Figure(f"in-memory step {name}, against aihwkit", a * 1e6, "us", "aihwkit", b * 1e6, ratio, "below 1")
