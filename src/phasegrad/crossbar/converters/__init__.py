"""Converters between digital numbers and the analog signals of a tile, and their ranges."""

from phasegrad.crossbar.converters.adc import Adc
from phasegrad.crossbar.converters.base import OutputConverter
from phasegrad.crossbar.converters.code_density import Linearity, linearity
from phasegrad.crossbar.converters.dac import BitSerialDac, Dac, InputConverter, InputSlice
from phasegrad.crossbar.converters.oscillator import OscillatorAdc
from phasegrad.crossbar.converters.ramp import RampAdc
from phasegrad.crossbar.converters.ranges import (
    AbsMaxRange,
    CalibratedRange,
    FixedRange,
    FullScaleRange,
    LearnedRange,
)
from phasegrad.crossbar.converters.sar import SarAdc
from phasegrad.crossbar.converters.stages import CyclicAdc, PipelineAdc
from phasegrad.crossbar.converters.state import Converters
from phasegrad.deprecation import renamed_attributes

__all__ = [
    "AbsMaxRange",
    "Adc",
    "BitSerialDac",
    "CalibratedRange",
    "Converters",
    "CyclicAdc",
    "Dac",
    "FixedRange",
    "FullScaleRange",
    "InputConverter",
    "InputSlice",
    "LearnedRange",
    "Linearity",
    "OscillatorAdc",
    "OutputConverter",
    "PipelineAdc",
    "RampAdc",
    "SarAdc",
    "linearity",
]

__getattr__ = renamed_attributes(__name__, {"Phase": "InputSlice"})


def __dir__() -> list[str]:
    return sorted(__all__)
