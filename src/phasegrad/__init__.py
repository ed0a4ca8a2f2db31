"""phasegrad: deep networks on analog phase-change memory."""

from phasegrad import (
    cells,
    checkpoint,
    conversion,
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
from phasegrad.deprecation import moved_attributes
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


# Until 0.3.0 these are found where release 0.1.0 had them; nn itself never imports conversion.
nn.__getattr__ = moved_attributes(  # type: ignore[method-assign]
    "phasegrad.nn",
    conversion,
    BypassWarning="BypassWarning",
    Summary="Summary",
    bypasses="bypasses",
    convert="convert",
    left_digital="left_digital",
    register_twin="register_counterpart",
    summary="summary",
    to_digital="to_digital",
)
