"""phasegrad: deep networks on analog phase-change memory."""

from phasegrad import cells, checkpoint, crossbar, devices, hwa, inference, nn, optim, plot, presets
from phasegrad.crossbar import Hardware
from phasegrad.nn import convert, summary, to_digital
from phasegrad.ops import backends
from phasegrad.version import __version__

__all__ = [
    "Hardware",
    "__version__",
    "backends",
    "cells",
    "checkpoint",
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
