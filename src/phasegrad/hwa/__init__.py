"""Hardware-aware fine-tuning of digital weights."""

from phasegrad.hwa.calibration import calibrate
from phasegrad.hwa.fine_tuning import fine_tune
from phasegrad.hwa.recipe import (
    AdditiveNoise,
    Distillation,
    MultiplicativeNoise,
    PCMNoise,
    Recipe,
    WeightNoise,
    set_noise_level,
)
from phasegrad.hwa.training_loop import History

__all__ = [
    "AdditiveNoise",
    "Distillation",
    "History",
    "MultiplicativeNoise",
    "PCMNoise",
    "Recipe",
    "WeightNoise",
    "calibrate",
    "fine_tune",
    "set_noise_level",
]


def __dir__() -> list[str]:
    return sorted(__all__)
