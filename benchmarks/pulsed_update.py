"""The pulsed update against torch's dense outer product, and its growth with samples and weights.

A figure's load is the mean number of pulses that a weight gets from a sample: ``lr E|x| E|d| / granularity``.
"""

from __future__ import annotations

import torch

import phasegrad as pg
from benchmarks.harness import Figure, side_by_side
from phasegrad.crossbar.stores import Devices

LAWS = {
    "soft-bounds": pg.presets.soft_bounds_training,
    "constant": pg.presets.constant_step_training,
    "pcm-pair": pg.presets.pcm_pair_training,
}
LOADS = (0.01, 0.04, 0.4)
SIZES = ((256, 64), (1024, 1), (1024, 16), (1024, 64), (1024, 256), (2048, 64), (4096, 64))


def devices(hardware: pg.Hardware, size: int) -> Devices:
    """Programmed to small weights."""
    made = Devices(hardware, size, size, hardware.columns)
    scale = torch.full_like(made.scale, float(hardware.scale))
    made.program_weight(0.02 * torch.randn(size, size), scale, torch.ones(1), torch.zeros(1, dtype=torch.int64))
    return made


def figure(law: str, size: int, batch: int, load: float, target: str = "-") -> Figure:
    """Time an update; nanoseconds a weight and sample."""
    torch.manual_seed(0)
    made = devices(LAWS[law](), size)
    x, d = torch.rand(batch, size) * 2.0 - 1.0, torch.randn(batch, size)
    lr = load * made.granularity / (0.5 * (2.0 / torch.pi) ** 0.5)
    seed = torch.zeros(1, dtype=torch.int64)
    weight, dense = made.logical_weight(), torch.zeros(size, size)
    pulsed, outer, ratio = side_by_side(
        lambda: made.update([(x, d)], lr, seed, weight), lambda: dense.addmm_(d.t(), x, alpha=-lr), 9
    )
    per = 1e9 / (size * size * batch)
    name = f"{law} {size}x{size} B{batch}, {load:g} pulses"
    return Figure(name, pulsed * per, "ns a weight and sample", "dense outer product", outer * per, ratio, target)


def figures() -> list[Figure]:
    """Measure laws and loads at one size, then sizes under one law."""
    target = {("soft-bounds", 0.04): "at most 0.2 ns"}
    result = [figure(law, 1024, 64, load, target.get((law, load), "-")) for law in LAWS for load in LOADS]
    result += [figure("soft-bounds", size, batch, 0.04) for size, batch in SIZES if (size, batch) != (1024, 64)]
    return result
