"""What temperature does to a phase-change device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar, final

import torch
from torch import Tensor

from phasegrad.configuration import Configuration, check_number, check_type
from phasegrad.devices.laws import Curve, Law

Scalar = TypeVar("Scalar", float, Tensor)

BOLTZMANN = 8.617333262e-5
"""[eV/K]"""


_AMORPHOUS_TO_CRYSTALLINE = Curve(polynomial=(0.2, -0.18))


@final
@dataclass(frozen=True, kw_only=True)
class Thermal(Configuration):
    """Conductance and drift, thermally activated.

    With ``b = (1/reference - 1/temperature) / k``, 0 at the reference and above 0 where it is hotter, a device
    conducts ``exp(conductance_energy(g) b)`` times as well as at the reference, where ``g`` is what it was programmed
    to over ``g_max``, and its drift exponent is ``exp(nu_energy b)`` times as large: a time spent at a temperature
    takes ``d ln G = -nu exp(nu_energy b) d ln t``, so that a hot day is remembered after it. Relative read noise is
    that of the reference.

    The amorphous part is the one that conducts by activation, hence an energy that falls as conductance rises. The
    form is widely reported; the figures here are of the right order and no paper's: put in your own.

    Args:
        reference: temperature at which the device's other laws were measured [K].
        conductance_energy: activation energy of the conductance [eV], a law of ``g``; 0.2 eV at RESET and 0.02 eV at
            full SET by default.
        nu_energy: activation energy of the drift exponent [eV]; 0.026 by default, which makes the exponent
            proportional to the absolute temperature near 300 K.
        lowest: least temperature that is accepted [K].
        highest: greatest one [K]; above it the amorphous part crystallises, which is not modelled.

    Raises:
        ValueError: a number is out of its range.
        TypeError: ``conductance_energy`` is no law.

    Examples:
        >>> thermal = Thermal()
        >>> round(thermal.inverse(350.0), 3)
        5.526
    """

    reference: float = 300.0
    conductance_energy: Law = _AMORPHOUS_TO_CRYSTALLINE
    nu_energy: float = 0.026
    lowest: float = 200.0
    highest: float = 400.0

    def __post_init__(self) -> None:
        check_number(self, "lowest", 0.0, above=True)
        check_number(self, "highest", self.lowest)
        check_number(self, "reference", self.lowest, self.highest)
        check_number(self, "nu_energy", -1.0, 1.0)
        check_type(self, "conductance_energy", Law)

    def check(self, temperature: float) -> None:
        """Raise unless the laws hold at a temperature [K]."""
        if not isinstance(temperature, (int, float)):
            raise ValueError(f"temperature = {temperature!r} is a {type(temperature).__name__}; it must be a float [K]")
        if not self.lowest <= temperature <= self.highest:
            raise ValueError(
                f"temperature = {temperature!r} K; it must be in [{self.lowest:g}, {self.highest:g}] K, where Thermal "
                "says that its laws hold; kelvin, not degrees Celsius"
            )

    def inverse(self, temperature: Scalar) -> Scalar:
        """``(1/reference - 1/temperature) / k`` [1/eV]."""
        return (1.0 / self.reference - 1.0 / temperature) / BOLTZMANN

    def at_rest(self) -> Tensor:
        """Heat of a device that has always been at the reference; see :class:`DeviceState`."""
        return torch.tensor([self.reference, 0.0], dtype=torch.float64)

    def spend(self, heat: Tensor, efolds: float) -> None:
        """Take in, in place, that a device grew older by so many e-folds at its present temperature."""
        heat[1] += math.expm1(self.nu_energy * self.inverse(float(heat[0]))) * efolds

    def factor(self, g: Tensor, nu: Tensor, heat: Tensor) -> Tensor:
        """By what heat multiplies drifted conductances that were programmed to ``g`` of ``g_max``."""
        inverse, efolds = self.inverse(heat[0]).to(g.dtype), heat[1].to(g.dtype)
        return torch.exp(self.conductance_energy(g) * inverse - nu * efolds)
