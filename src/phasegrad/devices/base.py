"""The interface of every memory device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from phasegrad.configuration import Configuration
from phasegrad.devices.amplitude import AmplitudeResponse
from phasegrad.devices.moments import ConductanceMoments
from phasegrad.devices.partial_set import PartialSet
from phasegrad.devices.steps import Steps


class DeviceState(NamedTuple):
    """State of an array of devices: float32 tensors of one shape, and noise and heat for devices that need them."""

    conductance: Tensor
    """Conductance right after programming [S]."""
    nu: Tensor
    """Drift exponent, drawn once when the device is programmed."""
    noise: Tensor | None = None
    """State of correlated noise, ``[planes, *shape]``; plane 0 is the present relative deviation of the conductance."""
    heat: Tensor | None = None
    """Present temperature [K], and the e-folds of age that heat has added to drift so far: float64 ``[2]``."""


class ReadMoments(NamedTuple):
    """Reads as ``max(mean + sd z, 0)``; the ``z`` of ``read`` are the normals of its stream ``offset``."""

    mean: Tensor
    """Conductance without read noise [S]."""
    sd: Tensor
    """Standard deviation of a read before it is clipped at 0 [S]."""


class CellSum(NamedTuple):
    """How the devices of a cell add up: ``scale (sum_p factors[1 + p] g_p + factors[0])``."""

    factors: Sequence[float]
    """An offset, then a factor per device [1/S]."""
    scale: Tensor | None
    """``[row tiles, out]``; ``None`` for no scale."""
    rows: int
    """Inputs per tile."""


@dataclass(frozen=True, kw_only=True)
class Device(Configuration, ABC):
    """A kind of memory device. The caller passes the time, in seconds since programming."""

    g_max: float
    """Conductance of the largest weight [S]."""
    steps: Steps | None = None
    """Response to pulses; ``None`` for a device that is only programmed."""
    partial_set: PartialSet | None = None
    """Response to the length of a SET pulse, for programming by pulse length; ``None`` for none."""
    amplitude: AmplitudeResponse | None = None
    """Response to the current of a pulse, for write-and-verify; ``None`` for a device that is not programmed so."""

    _renamed: ClassVar[dict[str, str]] = {"remembers": "stateful_fields"}

    @property
    @abstractmethod
    def reads_are_noisy(self) -> bool:
        """Whether a read differs from the drifted conductance."""

    @property
    def lowest(self) -> float:
        """Conductance of a device at RESET, which represents a weight of 0 [S]."""
        return 0.0

    @property
    def window(self) -> float:
        """Conductance range from ``lowest`` to ``g_max`` [S]."""
        return self.g_max - self.lowest

    def in_window(self, fraction: Tensor) -> Tensor:
        """Conductances at fractions of the window [S]."""
        above = fraction * self.window
        return above + self.lowest if self.lowest else above

    @property
    def stateful_fields(self) -> tuple[str, ...]:
        """Names of the fields whose effects depend on the history of a device and not on its age alone."""
        return ()

    @property
    def redrawn(self) -> Device:
        """The device with the same law of each read at one age, whose reads at different ages are independent.

        Training that is aware of drift reads chips of which each has one age.

        Raises:
            ValueError: the effects of ``stateful_fields`` cannot be drawn for an age alone.
        """
        if self.stateful_fields:
            raise ValueError(
                f"{type(self).__name__}: {', '.join(self.stateful_fields)} depend on the history of a device, so that "
                "devices of some age cannot be drawn for training; define the property redrawn, or train without age"
            )
        return self

    @property
    def planes(self) -> int:
        """Number of noise state variables per device."""
        return 0

    def heat(self) -> Tensor | None:
        """Heat of a new device, see ``DeviceState``; ``None`` for a device independent of temperature."""
        return None

    def check_temperature(self, temperature: float) -> None:
        """Raise unless the device has laws for a temperature [K]."""
        raise ValueError(
            f"temperature = {temperature!r} K, but {type(self).__name__} does not depend on temperature; add thermal "
            "laws to the device, as in PCM(..., thermal=Thermal())"
        )

    def advance(self, state: DeviceState, before: float, after: float, seed: Tensor, offset: int) -> None:
        """Advance noise and heat from one age [s] to another, in place."""

    @property
    def drifts(self) -> bool:
        """Whether the conductance of an idle device may change; if not, training skips the drift computation."""
        return True

    @property
    def drifts_by_exponent(self) -> bool:
        """Whether a device whose drift exponent is 0 keeps its conductance, as a stuck device must."""
        return not self.drifts

    def drifts_within(self, seconds: float) -> bool:
        """Whether the conductance may change within a time [s] after it was written."""
        return self.drifts and seconds > 0.0

    @property
    def read_sd_alone(self) -> tuple[float, ...] | None:
        """All read noise as a polynomial in the conductance [S], lowest power first; ``None`` if it is not one."""
        return None if self.reads_are_noisy else ()

    def leak(self, seconds: float) -> tuple[float, float] | None:
        """Leak within a time [s] of devices whose drift depends on nothing but their conductance.

        Returns:
            The conductance to which all devices relax [S], and the fraction of the distance that they cover; ``None``
            if drift also depends on other variables, such as the time of the last write.
        """
        return None

    @abstractmethod
    def program(self, target: Tensor, seed: Tensor, offset: int) -> DeviceState:
        """Program devices to target conductances [S] of any shape."""

    def hold(self, state: DeviceState, stuck: Tensor) -> DeviceState:
        """The state in which stuck devices have the conductances ``stuck`` [S] and do not drift; NaN: not stuck."""
        responds = stuck.isnan()
        conductance = torch.where(responds, state.conductance, stuck)
        return state._replace(conductance=conductance, nu=state.nu.masked_fill(~responds, 0.0))

    def written(self, conductance: Tensor, target: Tensor, seed: Tensor, offset: int) -> DeviceState:
        """The state of devices that a write loop left at these conductances [S]; draws what does not depend on them.

        Args:
            conductance: conductances [S].
            target: targets of the loop [S], of the same shape; some laws of drift depend on them.
            seed: seed of the draws.
            offset: first of their streams.
        """
        if self.drifts or self.planes:
            raise ValueError(
                f"{type(self).__name__}: write-and-verify needs the method written, which draws the drift of devices "
                "with given conductances; define it, or program the device statistically"
            )
        return DeviceState(conductance, torch.zeros_like(conductance))

    def averaging(self, reads: int, seconds: float) -> Device | None:
        """A device whose one read is the mean of several reads in a row of this one, with noise drawn anew each time.

        Args:
            reads: number of reads.
            seconds: duration of each [s].

        Returns:
            ``None`` for a device whose reads have independent noise.
        """
        return None

    def programming_deviation(self, target: Tensor) -> Tensor | None:
        """Standard deviation [S] of the conductances of devices programmed to targets [S]; ``None`` if unknown."""
        return None

    def conductance_moments(self, target: Tensor, ages: Sequence[float]) -> ConductanceMoments | None:
        """Mean and variance of one read of devices programmed to targets [S], at each age [s].

        They are those of many devices that are programmed statistically, at the reference temperature.

        Returns:
            ``None`` if they are unknown; ``[ages, *shape]``, float64, otherwise.
        """
        return None

    @abstractmethod
    def drift(self, state: DeviceState, age: Tensor) -> Tensor:
        """Conductance [S] without read noise at an age [s], float64, one for all devices or one per device."""

    def read_moments(self, state: DeviceState, age: Tensor) -> ReadMoments | None:
        """The moments of reads at an age [s], which stay the same until devices age.

        Returns:
            ``None`` if reads are not of this form or not noisy; ``read`` then is the only way to read.
        """
        return None

    def read_cells(
        self, state: DeviceState, age: Tensor, seed: Tensor, offset: int, cells: CellSum, noisy: bool
    ) -> Tensor | None:
        """The sum of ``read``, or of ``drift`` without noise, over the devices of each cell, in one pass.

        Returns:
            Sums ``[out, in]`` of devices ``[devices, out, in]``; ``None`` for a device that has no such pass.
        """
        return None

    @abstractmethod
    def read(self, state: DeviceState, age: Tensor, seed: Tensor, offset: int) -> Tensor:
        """Conductance [S] found by one read at an age [s]."""
