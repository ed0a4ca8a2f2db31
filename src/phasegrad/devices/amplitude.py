"""Melt and quench: the conductance of a phase-change device against the current of a pulse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from phasegrad.configuration import Configuration, check_number


@final
@dataclass(frozen=True, kw_only=True)
class AmplitudeResponse(Configuration):
    """Conductance after one square pulse, whatever it was before.

    A pulse melts the material around the heater, the more the higher its current, and its end quenches what is molten.
    With ``x`` the current between ``onset`` (0) and ``complete`` (1), the conductance is
    ``G_reset + (G_set - G_reset) cos(pi x / 2) ** (2 shape)``. Each device has an offset on the axis of the current and
    a SET conductance of its own; each pulse adds noise to its current.

    The published curves are plots, from which constants can only be read roughly; every constant is a parameter.

    Args:
        set_conductance: conductance of a fully SET device [S], below ``onset``.
        reset_conductance: conductance of a RESET device [S], above ``complete``.
        onset: current from which a pulse melts [A].
        complete: current from which it blocks the device completely [A].
        shape: steepness of the middle of the curve.
        offset_sd: standard deviation of the offset from device to device [A].
        set_sd: standard deviation of the logarithm of the SET conductance from device to device.
        cycle_sd: standard deviation from pulse to pulse, as noise of the current [A].
        voltage: voltage across device and selector during a pulse [V], for the energy ``V I t``.

    References:
        Le Gallo, M. et al. A 64-core mixed-signal in-memory compute chip based on phase-change memory for deep neural
        network inference. Nat. Electron. 6 (2023), Extended Data Fig. 3. https://doi.org/10.1038/s41928-023-01010-1

    Examples:
        >>> curve, none = AmplitudeResponse(), torch.zeros(3)
        >>> curve.conductance(torch.tensor([50e-6, 275e-6, 500e-6]), none, none, none).mul(1e6).round(decimals=1)
        tensor([30.0000,  7.6000,  0.1000])
    """

    set_conductance: float = 30e-6
    reset_conductance: float = 0.1e-6
    onset: float = 50e-6
    complete: float = 500e-6
    shape: float = 2.0
    offset_sd: float = 15e-6
    set_sd: float = 0.05
    cycle_sd: float = 3e-6
    voltage: float = 3.0

    def __post_init__(self) -> None:
        for name in ("set_conductance", "onset", "complete", "shape", "voltage"):
            check_number(self, name, 0.0, above=True)
        for name in ("reset_conductance", "offset_sd", "set_sd", "cycle_sd"):
            check_number(self, name, 0.0)
        if self.reset_conductance >= self.set_conductance:
            raise ValueError(
                f"AmplitudeResponse: reset_conductance = {self.reset_conductance} S; it must be below set_conductance "
                f"= {self.set_conductance} S"
            )
        if self.onset >= self.complete:
            raise ValueError(
                f"AmplitudeResponse: onset = {self.onset} A; it must be below complete = {self.complete} A"
            )

    def conductance(self, current: Tensor, offset: Tensor, strength: Tensor, noise: Tensor) -> Tensor:
        """Conductances after one pulse each [S], without drift.

        Args:
            current: amplitudes [A].
            offset: standard normals of the devices' offsets, the same in every call.
            strength: standard normals of the devices' SET conductances, the same in every call.
            noise: standard normals of this pulse.
        """
        shifted = current - self.onset - self.offset_sd * offset - self.cycle_sd * noise
        x = shifted.mul_(1.0 / (self.complete - self.onset)).clamp_(0.0, 1.0)
        window = self.fully_set(strength).sub_(self.reset_conductance)
        return x.mul_(0.5 * math.pi).cos_().square_().pow_(self.shape).mul_(window).add_(self.reset_conductance)

    def fully_set(self, strength: Tensor) -> Tensor:
        """SET conductances of devices with these standard normals [S]."""
        return torch.exp(self.set_sd * strength).mul_(self.set_conductance)

    def current(self, conductance: Tensor) -> Tensor:
        """The current [A] that programs the median device to conductances [S]; those beyond its window are clipped."""
        fraction = (conductance - self.reset_conductance) / (self.set_conductance - self.reset_conductance)
        x = fraction.clamp(0.0, 1.0).pow(0.5 / self.shape).acos().mul(2.0 / math.pi)
        return self.onset + x * (self.complete - self.onset)
