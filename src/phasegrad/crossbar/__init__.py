"""Tiles: mapping of weights to cells, converters, wires, and the product."""

from phasegrad.crossbar.circuit import Sinh, Solution, solve
from phasegrad.crossbar.converters import (
    AbsMaxRange,
    Adc,
    BitSerialDac,
    CalibratedRange,
    Converters,
    CyclicAdc,
    Dac,
    FixedRange,
    FullScaleRange,
    InputConverter,
    LearnedRange,
    Linearity,
    OscillatorAdc,
    OutputConverter,
    PipelineAdc,
    RampAdc,
    SarAdc,
    linearity,
)
from phasegrad.crossbar.duration import Integrator
from phasegrad.crossbar.fast import Fast, Transfer
from phasegrad.crossbar.hardware import Hardware
from phasegrad.crossbar.perturbation import NoiseProfile, Perturbation
from phasegrad.crossbar.pulses import Pulses
from phasegrad.crossbar.wires import DurationCodedDrop, Wires

__all__ = [
    "AbsMaxRange",
    "Adc",
    "BitSerialDac",
    "CalibratedRange",
    "Converters",
    "CyclicAdc",
    "Dac",
    "DurationCodedDrop",
    "Fast",
    "FixedRange",
    "FullScaleRange",
    "Hardware",
    "InputConverter",
    "Integrator",
    "LearnedRange",
    "Linearity",
    "NoiseProfile",
    "OscillatorAdc",
    "OutputConverter",
    "Perturbation",
    "PipelineAdc",
    "Pulses",
    "RampAdc",
    "SarAdc",
    "Sinh",
    "Solution",
    "Transfer",
    "Wires",
    "linearity",
    "solve",
]


def __dir__() -> list[str]:
    return sorted(__all__)
