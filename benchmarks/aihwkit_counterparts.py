"""Equivalent operations of IBM's aihwkit, which the benchmarks time as a baseline if it is installed.

If both libraries have the law (soft bounds, exponential and constant steps), devices have the same nominal step, range
and variability. The PCM pair of aihwkit is its preset, a one-sided exponential device with refresh after every update.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING or find_spec("aihwkit") is not None:
    from aihwkit.nn.conversion import convert_to_analog  # pyright: ignore[reportMissingImports]
    from aihwkit.optim import AnalogSGD  # pyright: ignore[reportMissingImports]
    from aihwkit.simulator.configs import (  # pyright: ignore[reportMissingImports]
        SingleRPUConfig,
        UnitCellRPUConfig,
        devices,
    )
    from aihwkit.simulator.parameters import IOParameters  # pyright: ignore[reportMissingImports]
    from aihwkit.simulator.presets import PCMPresetUnitCell  # pyright: ignore[reportMissingImports]
    from aihwkit.simulator.tiles import AnalogTile  # pyright: ignore[reportMissingImports]

    AVAILABLE = True
else:
    AVAILABLE = False

STEP = 0.001
"""Nominal step of aihwkit's single devices, over weights of -0.6 to 0.6, as in phasegrad's presets."""
PAIRS = ("pair with refresh", "pcm-pair")
PAIR_STEP = 0.01
"""Nominal step of a device of its PCM pair, over weights of 0 to 2."""


def configuration(law: str) -> Any:
    """Configuration without periphery: ``"soft-bounds"``, ``"constant"``, ``"exponential"``, or one of ``PAIRS``."""
    if law in PAIRS:
        made = UnitCellRPUConfig(device=PCMPresetUnitCell())
    else:
        kinds = {
            "soft-bounds": devices.SoftBoundsDevice,
            "constant": devices.ConstantStepDevice,
            "exponential": devices.ExpStepDevice,
        }
        made = SingleRPUConfig(device=kinds[law](dw_min=STEP))
    made.forward, made.backward = IOParameters(is_perfect=True), IOParameters(is_perfect=True)
    return made


def update(law: str, x: Tensor, d: Tensor, load: float) -> Callable[[], object]:
    """A pulsed update of a square matrix with a mean of ``load`` pulses per weight and sample."""
    tile = AnalogTile(d.shape[1], x.shape[1], configuration(law))
    tile.set_weights(0.02 * torch.randn(d.shape[1], x.shape[1]))
    step = PAIR_STEP if law in PAIRS else STEP
    tile.set_learning_rate(load * step / float(x.abs().mean() * d.abs().mean()))
    return lambda: tile.update(x, d)


def step(law: str, network: nn.Module, x: Tensor, y: Tensor, lr: float) -> Callable[[], object]:
    """An in-memory training step of a converted network."""
    analog = convert_to_analog(network, configuration(law))
    optimizer = AnalogSGD(analog.parameters(), lr=lr)
    optimizer.regroup_param_groups(analog)

    def run() -> None:
        optimizer.zero_grad()
        F.cross_entropy(analog(x), y).backward()
        optimizer.step()

    return run
