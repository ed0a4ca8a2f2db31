"""One device, read against a reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from phasegrad.cells.base import Cell


@final
@dataclass(frozen=True, kw_only=True)
class ReferencedDevice(Cell):
    """One device and a reference in the middle of its window: ``w = 2 (G - g_min) / (g_max - g_min) - 1``.

    The cell suits devices with steps in both directions. The reference is exact and subtracted in the periphery.

    Examples:
        >>> import torch
        >>> from phasegrad.devices import ideal_device
        >>> cell = ReferencedDevice(device=ideal_device(g_max=20e-6))
        >>> cell.targets(torch.tensor([0.5, -1.0])) * 1e6
        tensor([[15.,  0.]])
    """

    @property
    def factors(self) -> tuple[float, ...]:
        """``2``, because the window represents weights from -1 to 1."""
        return (2.0,)

    @property
    def offset(self) -> float:
        """Weight of the reference: -1, or less for a device with a lowest conductance above 0."""
        return -1.0 - 2.0 * self.device.lowest / self.device.window

    def pulsed(self, update: int) -> tuple[int, int]:
        """The same device to increase and to decrease the weight."""
        return (0, 0)

    def targets(self, weight: Tensor) -> Tensor:
        """Target conductances [S]; the middle of the window represents 0."""
        return self.device.in_window((weight + 1.0) * 0.5).unsqueeze(0)
