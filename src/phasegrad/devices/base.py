"""What every memory device can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from phasegrad.configuration import Configuration
from phasegrad.devices.steps import Steps


class DeviceState(NamedTuple):
    """What a device remembers: tensors of one shape, float32, and what belongs to time for devices that ask for it."""

    conductance: Tensor
    """Conductance right after programming [S]."""
    nu: Tensor
    """Drift exponent, drawn once, when the device is programmed."""
    noise: Tensor | None = None
    """What noise remembers, ``[planes, *shape]``, the first the relative deviation of the conductance now."""
    heat: Tensor | None = None
    """Present temperature [K], and by how many e-folds of age heat has advanced drift so far: float64 ``[2]``."""


@dataclass(frozen=True, kw_only=True)
class Device(Configuration, ABC):
    """A kind of memory device. Time is given by the caller, in seconds since programming."""

    g_max: float
    """The conductance that stands for the largest weight [S]."""
    steps: Steps | None = None
    """How the device answers pulses; ``None`` for one that is only programmed."""

    _renamed: ClassVar[dict[str, str]] = {"remembers": "stateful_fields"}

    @property
    @abstractmethod
    def reads_are_noisy(self) -> bool:
        """Whether a read finds anything but the drifted conductance."""

    @property
    def lowest(self) -> float:
        """The conductance that stands for no weight, of a device at RESET [S]."""
        return 0.0

    @property
    def window(self) -> float:
        """From that conductance to the one that stands for the largest weight [S]."""
        return self.g_max - self.lowest

    def in_window(self, fraction: Tensor) -> Tensor:
        """The conductances that fractions of the window stand for [S]."""
        above = fraction * self.window
        return above + self.lowest if self.lowest else above

    @property
    def stateful_fields(self) -> tuple[str, ...]:
        """The fields that make time leave more on a device than its age tells; none for most."""
        return ()

    @property
    def planes(self) -> int:
        """Numbers that the noise of one device remembers."""
        return 0

    def heat(self) -> Tensor | None:
        """Heat of a new device, see :class:`DeviceState`; ``None`` if it is the same at every temperature."""
        return None

    def check_temperature(self, temperature: float) -> None:
        """Raise unless the device has laws for a temperature [K]."""
        raise ValueError(
            f"temperature = {temperature!r} K, but {type(self).__name__} is the same at every temperature; give the "
            "device its laws, as in PCM(..., thermal=Thermal())"
        )

    def advance(self, state: DeviceState, before: float, after: float, seed: Tensor, offset: int) -> None:
        """Let what noise and heat leave on devices live from one age [s] to another, in place."""

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
