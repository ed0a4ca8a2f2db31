"""Hardware-aware fine-tuning of digital weights."""

from phasegrad.crossbar.chip_age import AgeDistribution, FixedAge, LogUniform, Uniform
from phasegrad.hwa.calibration import calibrate
from phasegrad.hwa.fine_tuning import fine_tune
from phasegrad.hwa.recipe import Distillation, Recipe, set_noise_level
from phasegrad.hwa.training_loop import History
from phasegrad.hwa.weight_noise import AdditiveNoise, MultiplicativeNoise, PCMNoise, WeightNoise
from phasegrad.nn.chip_age import draw_age

__all__ = [
    "AdditiveNoise",
    "AgeDistribution",
    "Distillation",
    "FixedAge",
    "History",
    "LogUniform",
    "MultiplicativeNoise",
    "PCMNoise",
    "Recipe",
    "Uniform",
    "WeightNoise",
    "calibrate",
    "draw_age",
    "fine_tune",
    "set_noise_level",
]


def __dir__() -> list[str]:
    return sorted(__all__)
