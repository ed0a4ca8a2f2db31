"""Named hardware: functions that return a Hardware and cite their sources."""

from phasegrad.presets.inference import hermes_inference, ideal_inference, pcm_inference
from phasegrad.presets.training import (
    constant_step_training,
    multi_memristive_training,
    pcm_capacitor_training,
    pcm_pair_training,
    soft_bounds_training,
    tiki_taka_training,
)

__all__ = [
    "constant_step_training",
    "hermes_inference",
    "ideal_inference",
    "multi_memristive_training",
    "pcm_capacitor_training",
    "pcm_inference",
    "pcm_pair_training",
    "soft_bounds_training",
    "tiki_taka_training",
]


def __dir__() -> list[str]:
    return sorted(__all__)
