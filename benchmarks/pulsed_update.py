"""The pulsed update against torch's dense outer product and aihwkit's update, and its scaling with samples and weights.

The load of a figure is the mean number of pulses per weight and sample: ``lr E|x| E|d| / dw_min``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

import phasegrad as pg
from benchmarks import aihwkit_counterparts
from benchmarks.harness import Figure, side_by_side
from phasegrad.cells import DifferentialPair
from phasegrad.crossbar import Pulses
from phasegrad.devices import ExponentialSteps, ideal_device
from phasegrad.stores import AnalogWeight, pulsed_weight


def exponential() -> pg.Hardware:
    """The soft-bounds preset with exponential steps instead, of 0.001 over weights of -0.6 to 0.6."""
    law = ExponentialSteps(size=25e-6 / 1200, c2c=0.3, d2d=0.3, imbalance=0.02, bounds_d2d=0.15)
    preset = pg.presets.soft_bounds_training()
    device = ideal_device(g_max=25e-6, steps=law)
    return dataclasses.replace(preset, cell=dataclasses.replace(preset.cell, device=device))


def exponential_pair() -> pg.Hardware:
    """The PCM preset of aihwkit: pairs of exponential devices with 200 nominal steps, refreshed after every update."""
    law = ExponentialSteps(
        size=12e-6 / 200, a_up=-27.235, a_down=-2.235, gamma_up=2.5, gamma_down=2.5, scale=-1.0, shift=-1.0,
        c2c=0.6, d2d=0.2, imbalance=0.05, bounds_d2d=0.1,
    )  # fmt: skip
    cell = DifferentialPair(device=ideal_device(g_max=12e-6, steps=law), refresh=1)
    return pg.Hardware(cell=cell, scale=2.0, pulses=Pulses())


LAWS = {
    "soft-bounds": pg.presets.soft_bounds_training,
    "constant": pg.presets.constant_step_training,
    "pcm-pair": pg.presets.pcm_pair_training,
}
# Hardware that both libraries have, and the target speed-up of phasegrad.
IN_AIHWKIT = {
    "soft-bounds": (pg.presets.soft_bounds_training, 10),
    "exponential": (exponential, 10),
    "pair with refresh": (exponential_pair, 20),
}
LOADS = (0.01, 0.04, 0.15, 0.4)
SIZES = ((256, 64), (1024, 1), (1024, 16), (1024, 64), (1024, 256), (2048, 64), (4096, 64))


def devices(hardware: pg.Hardware, size: int) -> AnalogWeight:
    """Devices programmed to small weights."""
    made = AnalogWeight(hardware, size, size, hardware.columns)
    scale = torch.full_like(made.scale, float(hardware.scale))
    made.program_weight(0.02 * torch.randn(size, size), scale, torch.ones(1), torch.zeros(1, dtype=torch.int64))
    return made


def figure(law: str, size: int, batch: int, load: float, target: str = "-") -> Figure:
    """Time an update in nanoseconds per weight and sample."""
    torch.manual_seed(0)
    x, d = samples(size, batch)
    dense = torch.zeros(size, size)
    pulsed, outer, ratio = side_by_side(update(LAWS[law](), x, d, load), lambda: dense.addmm_(d.t(), x, alpha=-1e-3), 9)
    per = 1e9 / (size * size * batch)
    name = f"{law} {size}x{size} B{batch}, {load:g} pulses"
    return Figure(name, pulsed * per, "ns per weight and sample", "dense outer product", outer * per, ratio, target)


def samples(size: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and gradients of the outputs."""
    return torch.rand(batch, size) * 2.0 - 1.0, torch.randn(batch, size)


def update(hardware: pg.Hardware, x: torch.Tensor, d: torch.Tensor, load: float) -> Callable[[], object]:
    """A pulsed update with a mean of ``load`` pulses per weight and sample."""
    made = devices(hardware, x.shape[1])
    lr = load * made.dw_min / float(x.abs().mean() * d.abs().mean())
    seed, weight = torch.zeros(1, dtype=torch.int64), made.logical_weight()
    return lambda: pulsed_weight.update(made, [(x, d)], lr, seed, weight)


def counterpart(law: str, load: float) -> Figure:
    """Time an update of 1024 x 1024 weights with 64 samples against aihwkit."""
    torch.manual_seed(0)
    make, times = IN_AIHWKIT[law]
    x, d = samples(1024, 64)
    theirs = aihwkit_counterparts.update(law, x, d, load)
    pulsed, other, ratio = side_by_side(update(make(), x, d, load), theirs, 9)
    per = 1e9 / (1024 * 1024 * 64)
    name = f"{law} 1024x1024 B64, {load:g} pulses, against aihwkit"
    target = f"at most 1/{times}"
    return Figure(name, pulsed * per, "ns per weight and sample", "aihwkit", other * per, ratio, target)


def figures() -> list[Figure]:
    """Measure laws and loads at one size, then sizes with one law."""
    target = {("soft-bounds", 0.04): "at most 0.2 ns"}
    result = [figure(law, 1024, 64, load, target.get((law, load), "-")) for law in LAWS for load in LOADS]
    result += [figure("soft-bounds", size, batch, 0.04) for size, batch in SIZES if (size, batch) != (1024, 64)]
    if aihwkit_counterparts.AVAILABLE:
        result += [counterpart(law, load) for law in IN_AIHWKIT for load in LOADS]
    return result
