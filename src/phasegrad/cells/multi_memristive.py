"""Several pairs per weight, pulsed in turn."""

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
    """N pairs whose mean is the weight, ``w = sum_n (G+_n - G-_n) / (N g_max)``; each update pulses one pair.

    A counter that is shared by the whole array and advances by one at every update selects the pair, the same in every
    cell. A pulse changes the weight by 1/N of the change of a pair, so that steps are finer and their errors average.
    A pair in which one device exceeds 0.75 and the other 0.25 of ``reach`` is RESET, and its own difference is written
    back; the other pairs are unchanged.

    Args:
        device: kind of all devices.
        pairs: number of pairs N, at most 64.
        refresh: updates from one search for saturated pairs to the next; 0 for no search.
        reach: as for [`DifferentialPair`][phasegrad.cells.DifferentialPair] [S].

    References:
        Boybat, I. et al. Neuromorphic computing with multi-memristive synapses. Nat. Commun. 9, 2514 (2018).
        https://doi.org/10.1038/s41467-018-04933-y

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
        _ = self._pair  # checks refresh and reach

    @property
    def factors(self) -> tuple[float, ...]:
        """``1/N`` and ``-1/N`` for each pair."""
        return (1.0 / self.pairs, -1.0 / self.pairs) * self.pairs

    def pulsed(self, update: int) -> tuple[int, int]:
        """Indices of the devices of the selected pair."""
        turn = update % self.pairs
        return (2 * turn, 2 * turn + 1)

    @property
    def refresh_every(self) -> int:
        """``refresh``, the updates from one search for saturated pairs to the next."""
        return self.refresh

    @property
    def _pair(self) -> DifferentialPair:
        return DifferentialPair(device=self.device, refresh=self.refresh, reach=self.reach)

    def saturated(self, conductance: Tensor) -> Tensor:
        """Both devices of saturated pairs, ``[devices, *shape]``."""
        full = [self._pair.saturated(pair) for pair in conductance.split(2)]
        return torch.stack(full).repeat_interleave(2, dim=0)

    def rewrite_targets(self, conductance: Tensor) -> Tensor:
        """Target conductances [S] that preserve the difference of each pair, with one device at RESET."""
        return torch.cat([self._pair.rewrite_targets(pair) for pair in conductance.split(2)])

    def targets(self, weight: Tensor) -> Tensor:
        """Target conductances [S] with the weight on every pair: one device at its magnitude, the other at RESET."""
        return self._pair.targets(weight).repeat(self.pairs, *[1] * weight.dim())
