"""phasegrad: deep networks on analog phase-change memory."""

from phasegrad import (
    cells,
    checkpoint,
    conversion,
    cost,
    crossbar,
    devices,
    hwa,
    inference,
    nn,
    optim,
    plot,
    presets,
    stores,
)
from phasegrad.conversion import convert, summary, to_digital
from phasegrad.crossbar import Hardware
from phasegrad.ops import backends
from phasegrad.version import __version__

__all__ = [
    "Hardware",
    "__version__",
    "backends",
    "cells",
    "checkpoint",
    "conversion",
    "convert",
    "cost",
    "crossbar",
    "devices",
    "hwa",
    "inference",
    "nn",
    "optim",
    "plot",
    "presets",
    "stores",
    "summary",
    "to_digital",
]


def __dir__() -> list[str]:
    return sorted(__all__)
