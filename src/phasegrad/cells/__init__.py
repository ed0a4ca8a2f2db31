"""How devices make one weight."""

from phasegrad.cells.base import Cell
from phasegrad.cells.pairs import DifferentialPair, SignificancePairs
from phasegrad.cells.single import ReferencedDevice

__all__ = ["Cell", "DifferentialPair", "ReferencedDevice", "SignificancePairs"]
