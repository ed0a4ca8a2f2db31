"""Unit cells: how devices represent one weight."""

from phasegrad.cells.base import Cell
from phasegrad.cells.multi_memristive import MultiMemristive
from phasegrad.cells.pairs import DifferentialPair, SignificancePairs
from phasegrad.cells.single import ReferencedDevice
from phasegrad.cells.slices import DifferentialSlices, OffsetSlices
from phasegrad.cells.splits import EqualSplit, FullOrPartial, MostSignificantFirst, Split, SplitTable

__all__ = [
    "Cell",
    "DifferentialPair",
    "DifferentialSlices",
    "EqualSplit",
    "FullOrPartial",
    "MostSignificantFirst",
    "MultiMemristive",
    "OffsetSlices",
    "ReferencedDevice",
    "SignificancePairs",
    "Split",
    "SplitTable",
]


def __dir__() -> list[str]:
    return sorted(__all__)
