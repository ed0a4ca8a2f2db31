"""The layer of IBM's aihwkit-lightning that the benchmarks of a GPU time as a baseline, if it is installed."""

from __future__ import annotations

import copy
from importlib.util import find_spec
from typing import TYPE_CHECKING

from torch import nn

import phasegrad as pg

if TYPE_CHECKING or find_spec("aihwkit_lightning") is not None:
    from aihwkit_lightning.nn.conversion import convert_to_analog  # pyright: ignore[reportMissingImports]
    from aihwkit_lightning.simulator.configs import (  # pyright: ignore[reportMissingImports]
        TorchInferenceRPUConfig,
        WeightClipType,
        WeightNoiseInjectionType,
    )

    AVAILABLE = True
else:
    AVAILABLE = False


def analog_linear(digital: nn.Linear, hardware: pg.Hardware) -> nn.Module:
    """A layer with the tile height, converters and output noise of a hardware, and noise per column of its weights."""
    assert hardware.dac is not None
    assert hardware.adc is not None
    config = TorchInferenceRPUConfig()
    config.mapping.max_input_size = hardware.rows
    config.forward.inp_res = 2 * hardware.dac.max_code
    config.forward.out_res = 2 * hardware.adc.max_code
    config.forward.out_bound = 10.0
    config.forward.out_noise = hardware.output_noise
    config.pre_post.input_range.enable = True
    config.pre_post.input_range.init_from_data = 1
    config.modifier.noise_type = WeightNoiseInjectionType.ADD_NORMAL_PER_CHANNEL
    config.modifier.std_dev = 0.05
    config.clip.type = WeightClipType.LAYER_GAUSSIAN
    config.clip.sigma = 2.5
    return convert_to_analog(nn.Sequential(copy.deepcopy(digital)), rpu_config=config).train()
