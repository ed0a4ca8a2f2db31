"""Programming by the length of partial SET pulses, row by row, as on IBM's 14 nm inference chip."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from phasegrad.cells import Cell
from phasegrad.configuration import check_number
from phasegrad.stores.programming.pulses import Pulses
from phasegrad.stores.programming.strategies import Run, Site, Strategy

_MOST = 1e6
"""Largest ``alpha``."""


@final
@dataclass(frozen=True, kw_only=True)
class PulseLengthByRow(Strategy):
    """Raise devices from RESET by pulses whose length is proportional to the error of the weight, a row at a time.

    A partial SET pulse only raises a conductance, so a cell must have devices that raise its weight and devices that
    lower it. The pairs of a cell are programmed one after the other, the most significant first, each to its own part
    of the weight and with an equal share of the iterations; the error that a pair leaves is left to the next one. The
    last pair is pulsed on the side that the remaining error asks for: an overshoot is corrected on its opposite device.
    All weights of a row are pulsed at once, each for a time of its own.

    The length is ``alpha`` times the time in which a median device grows by the error from RESET. ``alpha`` of each
    cell starts at ``alpha``; it is multiplied by ``lower`` after an overshoot and by ``higher`` after an undershoot.

    Args:
        alpha: first length, relative to that time.
        lower: factor after an overshoot, below 1.
        higher: factor after an undershoot, above 1.
        longest: longest pulse [s].
        tick: lengths are whole multiples of this time [s].

    Raises:
        ValueError: a number is out of its range.

    References:
        Narayanan, P. et al. Fully on-chip MAC at 14 nm enabled by accurate row-wise programming of PCM-based weights
        and parallel vector-transport in duration-format. IEEE Trans. Electron Devices 68, 6629 (2021).
        https://doi.org/10.1109/TED.2021.3115993
    """

    alpha: float = 0.5
    lower: float = 0.5
    higher: float = 1.3
    longest: float = 2e-6
    tick: float = 1.2e-9

    def __post_init__(self) -> None:
        for name in ("alpha", "longest", "tick"):
            check_number(self, name, 0.0, above=True)
        check_number(self, "lower", 0.0, 1.0, above=True)
        check_number(self, "higher", 1.0)

    def check(self, cell: Cell) -> None:
        """Raise ``ValueError`` unless a cell consists of pairs of devices whose growth reaches every target."""
        law = cell.device.partial_set
        if law is None:
            raise ValueError(
                f"PulseLengthByRow: the device of the cell, {type(cell.device).__name__}, has partial_set = None, so "
                "it is not known how the length of a pulse changes it; give it a law: dataclasses.replace(device, "
                "partial_set=devices.nandakumar_2018_partial_set())"
            )
        if cell.device.g_max >= min(law.plateau, law.highest):
            raise ValueError(
                f"PulseLengthByRow: targets reach g_max = {cell.device.g_max:g} S, but long pulses lead to "
                f"{min(law.plateau, law.highest):g} S only; lower the g_max of the device"
            )
        pairs_of(cell)

    def begin(self, site: Site) -> RowPulses:
        """Start on some cells."""
        return RowPulses(self, site)


@dataclass(frozen=True)
class Pair:
    """Two devices whose contributions to a weight cancel."""

    up: int
    down: int
    significance: float
    """Contribution of each to the weight, per window."""


def pairs_of(cell: Cell) -> list[Pair]:
    """The pairs of a cell, the most significant first.

    Raises:
        ValueError: a device that raises the weight has no counterpart that lowers it.
    """
    free = [index for index, factor in enumerate(cell.factors) if factor < 0.0]
    found = []
    for up, factor in enumerate(cell.factors):
        if factor <= 0.0:
            continue
        down = next((index for index in free if cell.factors[index] == -factor), None)
        if down is None:
            raise ValueError(
                f"PulseLengthByRow: cell = {type(cell).__name__} has no device that lowers the weight as its device "
                f"{up} raises it, but partial SET pulses only raise conductances; use a DifferentialPair or "
                "SignificancePairs, or a strategy that can lower a conductance, such as AmplitudeSteps"
            )
        free.remove(down)
        found.append(Pair(up, down, factor))
    return sorted(found, key=lambda pair: -pair.significance)


@final
class RowPulses(Run):
    """One run of the strategy: the present pair of each cell, and its ``alpha``.

    Args:
        strategy: the configuration.
        site: the cells.
    """

    def __init__(self, strategy: PulseLengthByRow, site: Site) -> None:
        law, targets = site.cell.device.partial_set, site.targets
        assert law is not None
        self._strategy, self._pairs, self._law = strategy, pairs_of(site.cell), law
        self._pulses_per_pair = -(-site.iterations // len(self._pairs))
        self._goals = self._contributions(targets)
        self._pair = torch.zeros_like(targets[0], dtype=torch.int64)
        self._alpha = torch.full_like(targets[0], strategy.alpha)
        self._before = torch.zeros_like(targets[0])

    def pulses(self, read: Tensor | None, attempt: int, unfinished: Tensor) -> Pulses | None:
        """RESET all devices, and then pulse those whose growth reduces the error."""
        if read is None:
            return Pulses(reset=torch.ones_like(unfinished))
        missing = self._goals - self._contributions(read)
        self._adapt(missing.gather(0, self._pair[None])[0])
        self._next_pairs(missing, (attempt - 1) // self._pulses_per_pair)
        present = missing.gather(0, self._pair[None])[0]
        self._before = torch.where(unfinished.any(dim=0), present, 0.0)
        return Pulses(seconds=self._spread(self._before))

    def residual(self, read: Tensor) -> Tensor:
        """What is missing of the weights ``[devices, cells]`` [S], the same at all devices of a cell.

        The unit is the conductance difference of a pair that represents the weight alone.
        """
        missing = (self._goals - self._contributions(read))[-1]
        return missing.expand_as(read)

    def keep(self, chosen: Tensor) -> RowPulses:
        """The run of some of the cells."""
        kept = copy.copy(self)
        kept._goals = self._goals[:, chosen]
        kept._pair, kept._alpha, kept._before = self._pair[chosen], self._alpha[chosen], self._before[chosen]
        return kept

    def _contributions(self, conductance: Tensor) -> Tensor:
        """What the pairs up to each one contribute ``[pairs, cells]`` [S], in parts of the window."""
        parts = [(conductance[p.up] - conductance[p.down]) * p.significance for p in self._pairs]
        return torch.stack(parts).cumsum(dim=0)

    def _adapt(self, present: Tensor) -> None:
        """Lower ``alpha`` where the last pulse went too far, raise it where it did not go far enough."""
        factor = torch.where(present * self._before < 0.0, self._strategy.lower, self._strategy.higher)
        adapted = (self._alpha * factor).clamp(max=_MOST)  # of a device that never follows, alpha would overflow
        self._alpha = torch.where(self._before == 0.0, self._alpha, adapted)

    def _next_pairs(self, missing: Tensor, least_pair: int) -> None:
        """Go on to the next pair where the present one has done its part, went too far, or has no more pulses."""
        for pair in range(len(self._pairs) - 1):
            side = self._goals[pair] - (self._goals[pair - 1] if pair else 0.0)
            done = (missing[pair] * side.sign() <= 0.0) | (pair < least_pair)
            leaves = (self._pair == pair) & done
            self._pair = torch.where(leaves, pair + 1, self._pair)
            self._alpha = torch.where(leaves, self._strategy.alpha, self._alpha)

    def _spread(self, present: Tensor) -> Tensor:
        """Lengths of pulses on the device of the present pair whose growth reduces what is missing."""
        lengths = present.new_zeros(2 * len(self._pairs), *present.shape)
        for index, pair in enumerate(self._pairs):
            here = torch.where(self._pair == index, present, 0.0)
            seconds = self._ticks(self._alpha * here.abs() / (pair.significance * self._law.speed))
            lengths[pair.up] = seconds * (here > 0.0)
            lengths[pair.down] = seconds * (here < 0.0)
        return lengths

    def _ticks(self, seconds: Tensor) -> Tensor:
        """Lengths rounded to whole ticks, at least one."""
        rule = self._strategy
        return (torch.round(seconds / rule.tick).clamp(min=1.0) * rule.tick).clamp(max=rule.longest)
