"""How devices make one weight."""

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
    """A unit cell: several devices whose conductances, weighted, add up to one weight in [-1, 1]."""

    device: Device

    _renamed: ClassVar[dict[str, str]] = {"cut": "bit_slice", "renewed": "rewrite_targets"}

    def __post_init__(self) -> None:
        check_type(self, "device", Device)

    @property
    @abstractmethod
    def factors(self) -> tuple[float, ...]:
        """What each device's conductance, in its window, contributes to the weight."""

    @abstractmethod
    def pulsed(self, update: int) -> tuple[int, int]:
        """The devices that an update, counted from 0, pulses where the weight must grow, and where it must shrink."""

    @property
    def offset(self) -> float:
        """The weight where no device conducts."""
        return 0.0

    @property
    def slice_factors(self) -> tuple[float, ...] | None:
        """What each slice counts in a digital sum; ``None`` for a cell whose devices are all summed in analog."""
        return None

    @property
    def has_reference(self) -> bool:
        """Whether a column of each tile holds references for the others: what ``offset`` says, on devices."""
        return False

    def bit_slice(self, weight: Tensor) -> Tensor:
        """The slices ``[slices, *shape]`` of weights in [-1, 1], each a part of a full device's."""
        return weight.unsqueeze(0)

    def read_slices(self, conductance: Tensor) -> Tensor:
        """The slices ``[slices, *shape]`` that conductances ``[devices, *shape]`` [S] stand for."""
        return self.weight(conductance).unsqueeze(0)

    def slice_targets(self, digits: Tensor) -> Tensor:
        """Target conductances ``[devices, *shape]`` [S] of slices ``[slices, *shape]``, as :meth:`bit_slice` gives them."""
        return self.targets(digits[0])

    @property
    def refresh_every(self) -> int:
        """Updates after which saturated cells are looked for; 0: never."""
        return 0

    def saturated(self, conductance: Tensor) -> Tensor:
        """What of conductances ``[devices, *shape]`` must be written anew to be able to move.

        Returns:
            Cells ``[*shape]``, or devices ``[devices, *shape]``.
        """
        return torch.zeros_like(conductance[0], dtype=torch.bool)

    def rewrite_targets(self, conductance: Tensor) -> Tensor:
        """Targets ``[devices, *shape]`` [S] of what is written anew: the weight as it stands."""
        return self.targets(self.weight(conductance))

    @abstractmethod
    def targets(self, weight: Tensor) -> Tensor:
        """Target conductances ``[devices, *shape]`` [S] of weights in [-1, 1]."""

    def program(self, weight: Tensor, seed: Tensor, offset: int) -> DeviceState:
        """Program every device of every cell; state of shape ``[devices, *shape]``."""
        return self.device.program(self.targets(weight), seed, offset)

    def weight(self, conductance: Tensor) -> Tensor:
        """The weights that conductances ``[devices, *shape]`` [S] stand for; about [-1, 1]."""
        scaled = [c / self.device.window for c in self.factors]
        total = conductance[0] * scaled[0]
        for factor, g in zip(scaled[1:], conductance[1:], strict=True):
            total = torch.add(total, g, alpha=factor)
        return total + self.offset if self.offset else total
