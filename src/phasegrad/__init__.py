"""phasegrad: deep networks on analog phase-change memory."""

from importlib.metadata import PackageNotFoundError, version

from phasegrad import cells, crossbar, devices, hwa, inference, nn, optim, plot, presets
from phasegrad.crossbar import Hardware
from phasegrad.nn import convert, summary, to_digital
from phasegrad.ops import backends

try:
    __version__ = version("phasegrad")
except PackageNotFoundError:  # a checkout on the path, never installed
    __version__ = "0.0.0"

__all__ = [
    "Hardware",
    "backends",
    "cells",
    "convert",
    "crossbar",
    "devices",
    "hwa",
    "inference",
    "nn",
    "optim",
    "plot",
    "presets",
    "summary",
    "to_digital",
]
