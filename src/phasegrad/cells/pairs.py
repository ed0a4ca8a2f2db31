"""Differential cells: devices on one line add to the weight, devices on the other subtract from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from phasegrad.cells.base import Cell
from phasegrad.cells.splits import EqualSplit, Split, pair_targets
from phasegrad.configuration import check_integer, check_number, check_type

_EQUAL = EqualSplit()


@final
@dataclass(frozen=True, kw_only=True)
class DifferentialPair(Cell):
    """Two devices: ``w = (G+ - G-) / (g_max - g_min)``.

    In training in the memory each device receives only pulses that raise its conductance, so that both saturate. At
    regular intervals, every pair in which one device exceeds 0.75 and the other 0.25 of ``reach`` is RESET, and its
    difference is written back (occasional RESET).

    Args:
        device: kind of both devices.
        refresh: updates from one search for saturated pairs to the next; 0 for no search.
        reach: mean conductance at which pulses saturate a device [S], if that is below ``g_max``.

    References:
        Burr, G. W. et al. Experimental demonstration and tolerancing of a large-scale neural network (165 000 synapses)
        using phase-change memory as the synaptic weight element. IEEE Trans. Electron Devices 62, 3498 (2015).
        https://doi.org/10.1109/TED.2015.2439635

    Examples:
        >>> from phasegrad.devices import ideal_device
        >>> cell = DifferentialPair(device=ideal_device(g_max=20e-6))
        >>> cell.targets(torch.tensor([0.5, -1.0])) * 1e6
        tensor([[10.,  0.],
                [ 0., 20.]])
    """

    refresh: int = 0
    reach: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "refresh", 0, 1 << 40)
        if self.reach is not None:
            check_number(self, "reach", 0.0, self.device.g_max, above=True)

    def pulsed(self, update: int) -> tuple[int, int]:
        """The first device to increase the weight, the second to decrease it."""
        return (0, 1)

    @property
    def refresh_every(self) -> int:
        """``refresh``, the updates from one search for saturated pairs to the next."""
        return self.refresh

    def saturated(self, conductance: Tensor) -> Tensor:
        """Saturated pairs ``[*shape]``."""
        up, down = conductance
        reach = self.reach or self.device.g_max
        return (torch.maximum(up, down) > 0.75 * reach) & (torch.minimum(up, down) > 0.25 * reach)

    @property
    def factors(self) -> tuple[float, ...]:
        """``1`` and ``-1``."""
        return (1.0, -1.0)

    def targets(self, weight: Tensor) -> Tensor:
        """Target conductances [S]: one device of a pair at the magnitude of the weight, the other at RESET."""
        return pair_targets(weight, self.device)


@final
@dataclass(frozen=True, kw_only=True)
class SignificancePairs(Cell):
    """Several pairs of different significance: ``w = sum_k f_k (G+_k - G-_k) / ((g_max - g_min) sum_k f_k)``.

    By default all pairs are programmed to the same fraction of the window, so that independent errors average: the
    variance is multiplied by ``sum f^2 / (sum f)^2``. Equal significances are N pairs per weight. ``(2, 1)`` is the
    four-PCM cell with a factor of 2, which the reference found optimal for all networks it tried.

    Args:
        device: kind of all devices.
        significances: significance ``f_k`` of each pair, above 0.
        split: targets of the devices as functions of the weight; if it has another ``full_weight`` than 1, the weight
            is multiplied by that.

    Raises:
        ValueError: a significance is not above 0, or the split is for another number of pairs.

    References:
        Mackin, C. et al. Optimised weight programming for analogue memory-based deep neural networks. Nat. Commun. 13,
        3765 (2022). https://doi.org/10.1038/s41467-022-31405-1
    """

    significances: tuple[float, ...]
    split: Split = _EQUAL

    def pulsed(self, update: int) -> tuple[int, int]:
        """Indices of the devices of the least significant pair."""
        least = self.significances.index(min(self.significances))
        return (2 * least, 2 * least + 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.significances or not all(math.isfinite(f) and f > 0 for f in self.significances):
            raise ValueError(
                f"SignificancePairs: significances = {self.significances}; give one or more finite numbers above 0"
            )
        check_type(self, "split", Split)
        self.split.check(self.significances)

    @property
    def factors(self) -> tuple[float, ...]:
        """``f_k`` and ``-f_k`` over the sum of significances, for each pair, times ``full_weight`` of the split."""
        total = sum(self.significances) / self.split.full_weight
        return tuple(sign * f / total for f in self.significances for sign in (1.0, -1.0))

    def targets(self, weight: Tensor) -> Tensor:
        """Target conductances ``[devices, *shape]`` [S], as the split specifies."""
        return self.split.targets(weight, self.significances, self.device)
