"""Conversion of digital models to analog ones and back, and reports about the parts that stay digital."""

from phasegrad.conversion.bypass_watch import BypassWarning, bypasses
from phasegrad.conversion.counterparts import register_counterpart
from phasegrad.conversion.layer_summary import Summary, summary
from phasegrad.conversion.replacement import convert, to_digital
from phasegrad.conversion.selection import left_digital

__all__ = [
    "BypassWarning",
    "Summary",
    "bypasses",
    "convert",
    "left_digital",
    "register_counterpart",
    "summary",
    "to_digital",
]


def __dir__() -> list[str]:
    return sorted(__all__)
