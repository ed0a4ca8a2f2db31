"""The interface of every unit cell."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from phasegrad.configuration import Configuration, check_type
from phasegrad.devices import Device, DeviceState


@dataclass(frozen=True, kw_only=True)
class Cell(Configuration, ABC):
    """A unit cell: devices whose weighted conductances add up to one weight in [-1, 1].

    Args:
        device: kind of all devices in the cell.
    """

    device: Device

    _renamed: ClassVar[dict[str, str]] = {"cut": "bit_slice", "renewed": "rewrite_targets"}

    def __post_init__(self) -> None:
        check_type(self, "device", Device)

    @property
    @abstractmethod
    def factors(self) -> tuple[float, ...]:
        """Contribution of each device to the weight, per conductance window."""

    @abstractmethod
    def pulsed(self, update: int) -> tuple[int, int]:
        """Indices of the devices that receive the pulses of an update to increase and to decrease the weight.

        Args:
            update: number of the update, from 0.
        """

    @property
    def offset(self) -> float:
        """Weight of a cell whose conductances are all 0."""
        return 0.0

    @property
    def slice_factors(self) -> tuple[float, ...] | None:
        """Factor of each slice in the digital sum; ``None`` for a cell whose devices are all summed in analog."""
        return None

    @property
    def has_reference(self) -> bool:
        """Whether each tile has a reference column, whose devices implement ``offset``."""
        return False

    def bit_slice(self, weight: Tensor) -> Tensor:
        """Slices ``[slices, *shape]`` of weights in [-1, 1], each as a fraction of a device's window."""
        return weight.unsqueeze(0)

    def read_slices(self, conductance: Tensor) -> Tensor:
        """Slices ``[slices, *shape]`` that conductances ``[devices, *shape]`` [S] represent."""
        return self.weight(conductance).unsqueeze(0)

    def slice_targets(self, digits: Tensor) -> Tensor:
        """Target conductances ``[devices, *shape]`` [S] of slices ``[slices, *shape]`` from ``bit_slice``."""
        return self.targets(digits[0])

    @property
    def refresh_every(self) -> int:
        """Updates from one search for saturated cells to the next; 0 for no search."""
        return 0

    def saturated(self, conductance: Tensor) -> Tensor:
        """Find cells or devices that must be rewritten, because pulses hardly change them any more.

        Args:
            conductance: conductances ``[devices, *shape]`` [S].

        Returns:
            Saturated cells ``[*shape]``, or saturated devices ``[devices, *shape]``.
        """
        return torch.zeros_like(conductance[0], dtype=torch.bool)

    def rewrite_targets(self, conductance: Tensor) -> Tensor:
        """Target conductances ``[devices, *shape]`` [S] with which a rewrite preserves the present weight."""
        return self.targets(self.weight(conductance))

    @abstractmethod
    def targets(self, weight: Tensor) -> Tensor:
        """Target conductances ``[devices, *shape]`` [S] of weights in [-1, 1]."""

    def program(self, weight: Tensor, seed: Tensor, offset: int) -> DeviceState:
        """Program all devices of cells to weights ``[*shape]``; returns the state ``[devices, *shape]``."""
        return self.device.program(self.targets(weight), seed, offset)

    def weight(self, conductance: Tensor) -> Tensor:
        """Weights, about in [-1, 1], that conductances ``[devices, *shape]`` [S] represent."""
        scaled = [c / self.device.window for c in self.factors]
        total = conductance[0] * scaled[0]
        for factor, g in zip(scaled[1:], conductance[1:], strict=True):
            total = torch.add(total, g, alpha=factor)
        return total + self.offset if self.offset else total
