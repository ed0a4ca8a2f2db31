"""Differential cells: what conducts on one line counts up, what conducts on the other counts down."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from phasegrad.cells.base import Cell
from phasegrad.configuration import check_integer, check_number
from phasegrad.devices import Device


def _pair_targets(weight: Tensor, device: Device) -> Tensor:
    """A positive weight lives on the first device, a negative one on the second; the other is at RESET."""
    return device.in_window(torch.stack((weight.clamp(min=0.0), (-weight).clamp(min=0.0))))


@final
@dataclass(frozen=True, kw_only=True)
class DifferentialPair(Cell):
    """Two devices: ``w = (G+ - G-) / (g_max - g_min)``.

    Trained in the memory, each device takes pulses in its growing direction alone, so both fill up; from time to time
    a pair of which one exceeds 0.75 and the other 0.25 of ``reach`` is RESET, and its difference written back.

    Args:
        device: of both.
        refresh: updates from one such look to the next; 0: never.
        reach: the conductance that pulses bring a device to on average [S], if that is less than ``g_max``.

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
        """Each device for one direction."""
        return (0, 1)

    @property
    def refresh_every(self) -> int:
        """``refresh``."""
        return self.refresh

    def saturated(self, conductance: Tensor) -> Tensor:
        """Pairs with little left to grow."""
        up, down = conductance
        reach = self.reach or self.device.g_max
        return (torch.maximum(up, down) > 0.75 * reach) & (torch.minimum(up, down) > 0.25 * reach)

    @property
    def factors(self) -> tuple[float, ...]:
        """One up, one down."""
        return (1.0, -1.0)

    def targets(self, weight: Tensor) -> Tensor:
        """One device at the weight's size, the other at RESET."""
        return _pair_targets(weight, self.device)


@final
@dataclass(frozen=True, kw_only=True)
class SignificancePairs(Cell):
    """Several pairs of different significance: ``w = sum_k f_k (G+_k - G-_k) / ((g_max - g_min) sum_k f_k)``.

    Every pair is programmed to the same fraction, so independent errors average: by ``sum f^2 / (sum f)^2`` in
    variance. Equal significances give N devices a weight; ``(2, 1)`` is the four-PCM cell with the factor 2 that
    Mackin et al., Nat. Commun. 13 (2022) found best.

    Args:
        device: the device of every pair.
        significances: ``f_k``, each above 0.
    """

    significances: tuple[float, ...]

    def pulsed(self, update: int) -> tuple[int, int]:
        """The pair of least significance."""
        least = self.significances.index(min(self.significances))
        return (2 * least, 2 * least + 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.significances or not all(math.isfinite(f) and f > 0 for f in self.significances):
            raise ValueError(
                f"SignificancePairs: significances = {self.significances}; give one or more finite numbers above 0"
            )

    @property
    def factors(self) -> tuple[float, ...]:
        """A pair's share, up and down, pair after pair."""
        total = sum(self.significances)
        return tuple(sign * f / total for f in self.significances for sign in (1.0, -1.0))

    def targets(self, weight: Tensor) -> Tensor:
        """One device at the weight's size, the other at RESET."""
        return _pair_targets(weight, self.device).repeat(len(self.significances), *[1] * weight.dim())
