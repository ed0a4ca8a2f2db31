"""How devices make one weight."""

from phasegrad.cells.base import Cell
from phasegrad.cells.pairs import DifferentialPair, SignificancePairs

__all__ = ["Cell", "DifferentialPair", "SignificancePairs"]
