"""Several pairs a weight, pulsed in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from phasegrad.cells.base import Cell
from phasegrad.cells.pairs import DifferentialPair
from phasegrad.configuration import check_integer


@final
@dataclass(frozen=True, kw_only=True)
class MultiMemristive(Cell):
    """N pairs, the weight their mean: ``w = sum_n (G+_n - G-_n) / (N g_max)``; an update pulses one of them.

    One counter for the whole array, which advances by one with every update, chooses the pair: the same in every cell.
    A pulse moves the weight by 1/N of what it moves a pair by, so steps are finer, and their errors average
    (Boybat et al., Nat. Commun. 9:2514, 2018). A pair of which one device exceeds 0.75 and the other 0.25 of ``reach``
    is RESET and its own difference written back; the other pairs stay as they are.

    Args:
        device: of every pair.
        pairs: N, at most 64.
        refresh: updates from one look for saturated pairs to the next; 0: never.
        reach: as for :class:`DifferentialPair` [S].

    Examples:
        >>> from phasegrad.devices import ideal_device
        >>> cell = MultiMemristive(device=ideal_device(g_max=20e-6), pairs=2)
        >>> [cell.pulsed(update) for update in range(3)]
        [(0, 1), (2, 3), (0, 1)]
        >>> cell.targets(torch.tensor([0.5, -1.0])) * 1e6
        tensor([[10.,  0.],
                [ 0., 20.],
                [10.,  0.],
                [ 0., 20.]])
    """

    pairs: int
    refresh: int = 0
    reach: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "pairs", 1, 64)
        _ = self._pair  # checks what it shares

    @property
    def factors(self) -> tuple[float, ...]:
        """One Nth up, one Nth down, pair after pair."""
        return (1.0 / self.pairs, -1.0 / self.pairs) * self.pairs

    def pulsed(self, update: int) -> tuple[int, int]:
        """The pair whose turn it is."""
        turn = update % self.pairs
        return (2 * turn, 2 * turn + 1)

    @property
    def refresh_every(self) -> int:
        """``refresh``."""
        return self.refresh

    @property
    def _pair(self) -> DifferentialPair:
        return DifferentialPair(device=self.device, refresh=self.refresh, reach=self.reach)

    def saturated(self, conductance: Tensor) -> Tensor:
        """Both devices of pairs with little left to grow."""
        full = [self._pair.saturated(pair) for pair in conductance.split(2)]
        return torch.stack(full).repeat_interleave(2, dim=0)

    def rewrite_targets(self, conductance: Tensor) -> Tensor:
        """Every pair's own difference, one device at RESET."""
        return torch.cat([self._pair.rewrite_targets(pair) for pair in conductance.split(2)])

    def targets(self, weight: Tensor) -> Tensor:
        """The weight on every pair: one device at its size, the other at RESET."""
        return self._pair.targets(weight).repeat(self.pairs, *[1] * weight.dim())
