"""Unit cells: how devices represent one weight."""

from phasegrad.cells.base import Cell
from phasegrad.cells.multi_memristive import MultiMemristive
from phasegrad.cells.pairs import DifferentialPair, SignificancePairs
from phasegrad.cells.single import ReferencedDevice
from phasegrad.cells.slices import DifferentialSlices, OffsetSlices

__all__ = [
    "Cell",
    "DifferentialPair",
    "DifferentialSlices",
    "MultiMemristive",
    "OffsetSlices",
    "ReferencedDevice",
    "SignificancePairs",
]


def __dir__() -> list[str]:
    return sorted(__all__)
