"""What every memory device can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from phasegrad.configuration import Configuration
from phasegrad.devices.steps import Steps


class DeviceState(NamedTuple):
    """What a device remembers: tensors of one shape, float32."""

    conductance: Tensor
    """Conductance right after programming [S]."""
    nu: Tensor
    """Drift exponent, drawn once, when the device is programmed."""


@dataclass(frozen=True, kw_only=True)
class Device(Configuration, ABC):
    """A kind of memory device. Time is given by the caller, in seconds since programming."""

    g_max: float
    """The conductance that stands for the largest weight [S]."""
    steps: Steps | None = None
    """How the device answers pulses; ``None`` for one that is only programmed."""

    @property
    @abstractmethod
    def reads_are_noisy(self) -> bool:
        """Whether two reads of a device differ."""

    @property
    def drifts(self) -> bool:
        """Whether a conductance may change while nothing is done to the device; if not, training need not ask."""
        return True

    def drifts_within(self, seconds: float) -> bool:
        """Whether a conductance may change within so much time after it was written."""
        return self.drifts and seconds > 0.0

    @property
    def read_sd_alone(self) -> tuple[float, ...] | None:
        """Coefficients of powers of the conductance that give the noise of a read, where they are all of it."""
        return None if self.reads_are_noisy else ()

    def leak(self, seconds: float) -> tuple[float, float] | None:
        """What a time does to devices whose conductance alone tells how they drift on.

        Returns:
            The conductance that all of them tend to [S], and the part of the way that they go; ``None`` where drift
            depends on more, as on when a device was written.
        """
        return None

    @abstractmethod
    def program(self, target: Tensor, seed: Tensor, offset: int) -> DeviceState:
        """Program devices towards a target conductance [S]; any shape."""

    @abstractmethod
    def drift(self, state: DeviceState, age: Tensor) -> Tensor:
        """Conductance [S] at an age [s], float64, one for all or one a device; without read noise."""

    @abstractmethod
    def read(self, state: DeviceState, age: Tensor, seed: Tensor, offset: int) -> Tensor:
        """Conductance [S] that one read at an age [s] sees."""
