"""How cells make a tile: mapping, converters, product, and the stores that weights live in."""

from phasegrad.crossbar.converters import (
    AbsMaxRange,
    Adc,
    CalibratedRange,
    Dac,
    FixedRange,
    FullScaleRange,
    LearnedRange,
)
from phasegrad.crossbar.fast import Fast, Transfer
from phasegrad.crossbar.hardware import Hardware
from phasegrad.crossbar.perturbation import Perturbation
from phasegrad.crossbar.pulses import Pulses

__all__ = [
    "AbsMaxRange",
    "Adc",
    "CalibratedRange",
    "Dac",
    "Fast",
    "FixedRange",
    "FullScaleRange",
    "Hardware",
    "LearnedRange",
    "Perturbation",
    "Pulses",
    "Transfer",
]
