"""Layers made of tiles."""

from phasegrad.nn.conv import AnalogConv1d, AnalogConv2d, AnalogConv3d
from phasegrad.nn.convert import analog_layers, convert, left_digital, to_digital
from phasegrad.nn.in_memory import InMemoryWeight
from phasegrad.nn.layer import AnalogLayer
from phasegrad.nn.linear import AnalogLinear
from phasegrad.nn.processes import ignore_in_ddp
from phasegrad.nn.summary import Summary, summary

__all__ = [
    "AnalogConv1d",
    "AnalogConv2d",
    "AnalogConv3d",
    "AnalogLayer",
    "AnalogLinear",
    "InMemoryWeight",
    "Summary",
    "analog_layers",
    "convert",
    "ignore_in_ddp",
    "left_digital",
    "summary",
    "to_digital",
]
