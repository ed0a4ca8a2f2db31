"""The search for the targets of devices that represent weights with the least error.

Gradient descent on the analytic error, from several starts at once. All tensors have a dimension of starts first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from phasegrad.cells import EqualSplit, FullOrPartial, MostSignificantFirst, SignificancePairs
from phasegrad.inference.weight_errors import Density, DeviceTable, WeightMoments, square_errors

_FACTORS = (1.0, 2.0, 3.0, 4.0)
"""Ratios of successive significances at the start."""
_RANDOM = 4
"""Starts with random targets."""
_LARGEST = math.log(16.0)
"""Logarithm of the largest ratio of significances."""


class Candidates(NamedTuple):
    """Splits under optimisation."""

    zero: Tensor
    """Fraction of the window of both devices of a pair at a weight of 0, ``[starts, 1, pairs, 1]``."""
    fractions: Tensor
    """Fractions at the other points, ``[starts, points - 1, pairs, 2]``."""
    log_significances: Tensor
    """``[starts, pairs]``."""
    log_full_weight: Tensor
    """``[starts]``."""

    @property
    def all_fractions(self) -> Tensor:
        """Fractions at all points, ``[starts, points, pairs, 2]``."""
        return torch.cat((self.zero.expand(-1, 1, -1, 2), self.fractions), dim=1)

    def clip(self) -> None:
        """Move targets into the window, and ratios to sizes that can be built."""
        self.zero.clamp_(0.0, 1.0)
        self.fractions.clamp_(0.0, 1.0)
        self.log_significances.sub_(self.log_significances.amin(1, keepdim=True)).clamp_(0.0, _LARGEST)
        self.log_full_weight.clamp_(-_LARGEST, _LARGEST)


class Search(NamedTuple):
    """What the candidates are compared by."""

    table: DeviceTable
    density: Density
    points: int
    clips: bool
    """Whether the weight of a full cell is free."""

    def errors(self, candidates: Candidates) -> Tensor:
        """Mean square errors ``[starts]``, averaged over times."""
        mean, variance = self.table(torch.einsum("jp,spkd->sjkd", self._interpolation(), candidates.all_fractions))
        factor = candidates.log_significances.softmax(1) * candidates.log_full_weight.exp().unsqueeze(1)
        weight = torch.einsum("sk,tsjk->tsj", factor, mean[..., 0] - mean[..., 1])
        spread = torch.einsum("sk,tsjk->tsj", factor.square(), variance.sum(-1))
        return square_errors(WeightMoments(weight, spread), self.density).mean(0)

    def _interpolation(self) -> Tensor:
        """Weight of each point in each bin, ``[bins, points]``."""
        distance = self.density.weight.unsqueeze(1) * (self.points - 1) - torch.arange(self.points)
        return (1.0 - distance.abs()).clamp(min=0.0)

    def run(self, candidates: Candidates, iterations: int, rate: float = 0.03) -> Candidates:
        """Descend from all candidates; each is independent of the others."""
        for part in candidates:
            part.requires_grad_()
        optimiser = torch.optim.Adam(list(candidates), lr=rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, iterations, eta_min=0.02 * rate)
        full_weight = candidates.log_full_weight.detach().clone()
        for _ in range(iterations):
            optimiser.zero_grad()
            with torch.enable_grad():
                self.errors(candidates).log().sum().backward()  # the logarithm gives all starts steps of one size
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                candidates.clip()
                if not self.clips:
                    candidates.log_full_weight.copy_(full_weight)
        return Candidates(*(part.detach() for part in candidates))


def starts(cell: SignificancePairs, points: int, seed: int) -> Candidates:
    """The cell's own split, the known splits at several significances, and random targets."""
    weights, pairs = torch.linspace(0.0, 1.0, points, dtype=torch.float64), len(cell.significances)
    known: list[tuple[Tensor, Sequence[float], float]] = []
    own = cell.split.fractions(weights, cell.significances)
    known.append((own, cell.significances, cell.split.full_weight))
    for factor in _FACTORS if pairs > 1 else _FACTORS[:1]:
        significances = tuple(factor ** (pairs - 1 - k) for k in range(pairs))
        splits = (EqualSplit(), MostSignificantFirst()) if pairs > 8 else (
            EqualSplit(), MostSignificantFirst(), FullOrPartial()
        )  # fmt: skip
        known += [(split.fractions(weights, significances), significances, 1.0) for split in splits]
    generator = torch.Generator().manual_seed(seed)
    for k in range(_RANDOM):
        random = torch.rand(2 * pairs, points, dtype=torch.float64, generator=generator)
        known.append((random, tuple(2.0 ** (k % 3) for _ in range(pairs)), 1.0))
    fractions = torch.stack([f for f, _, _ in known]).unflatten(1, (pairs, 2)).permute(0, 3, 1, 2).contiguous()
    significances = torch.tensor([list(s) for _, s, _ in known], dtype=torch.float64)
    full = torch.tensor([w for _, _, w in known], dtype=torch.float64)
    zero = fractions[:, :1].mean(-1, keepdim=True)
    return Candidates(zero, fractions[:, 1:].contiguous(), significances.log(), full.log())
