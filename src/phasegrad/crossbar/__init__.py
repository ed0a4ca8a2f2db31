"""How cells make a tile: mapping, converters, product, and the stores that weights live in."""

from phasegrad.crossbar.circuit import Sinh, Solution, solve
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
from phasegrad.crossbar.wires import DurationCodedDrop, Wires

__all__ = [
    "AbsMaxRange",
    "Adc",
    "CalibratedRange",
    "Dac",
    "DurationCodedDrop",
    "Fast",
    "FixedRange",
    "FullScaleRange",
    "Hardware",
    "LearnedRange",
    "Perturbation",
    "Pulses",
    "Sinh",
    "Solution",
    "Transfer",
    "Wires",
    "solve",
]
