"""Contract of cells of pairs: how independent errors average."""

from __future__ import annotations

import math
from typing import ClassVar

import torch

from phasegrad.testing import BOUND, SEED, CellContract


class AveragingContract(CellContract):
    averaging: ClassVar[float]
    """The law: variance of a weight over the sum of the variances of one pair's two conductances, over g_max."""

    def test_independent_errors_average(self) -> None:
        cell, n = self.configuration(), self.samples
        g = cell.program(torch.full((n,), 0.5), SEED, 0).conductance.double() / cell.device.g_max
        weight = cell.weight(cell.program(torch.full((n,), 0.5), SEED, 0).conductance).double()
        pair = (g[0].var() + g[1].var()).item()
        assert abs(weight.var().item() / pair / self.averaging - 1.0) < BOUND * math.sqrt(2 * 2.0 / n)

    def test_mean_weight_is_that_of_a_pair(self) -> None:
        cell, n = self.configuration(), self.samples
        g = cell.program(torch.full((n,), 0.5), SEED, 0).conductance
        wanted = ((g[0].double().mean() - g[1].double().mean()) / cell.device.g_max).item()
        weight = cell.weight(g).double()
        assert abs(weight.mean().item() - wanted) < BOUND * math.sqrt(2.0) * weight.std().item() / math.sqrt(n)
