"""Effects of temperature on a phase-change device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar, final

import torch
from torch import Tensor

from phasegrad.configuration import Configuration, check_number, check_type
from phasegrad.devices.curves import Curve, Law

Scalar = TypeVar("Scalar", float, Tensor)

BOLTZMANN = 8.617333262e-5
"""[eV/K]"""


_AMORPHOUS_TO_CRYSTALLINE = Curve(polynomial=(0.2, -0.18))


@final
@dataclass(frozen=True, kw_only=True)
class Thermal(Configuration):
    """Thermally activated conductance and drift.

    Let ``b = (1/reference - 1/temperature) / k``, which is 0 at the reference temperature and positive above it. The
    conductance is ``exp(conductance_energy(g) b)`` times that at the reference, with ``g`` the programmed conductance
    over ``g_max``. The drift exponent is ``exp(nu_energy b)`` times that at the reference: at each temperature,
    ``d ln G = -nu exp(nu_energy b) d ln t``, so that the effect of a hot period on drift persists. Relative read noise
    does not depend on temperature.

    The activation energy decreases with conductance because the amorphous part conducts by thermal activation. The
    form is widely reported. The default values have the right order of magnitude but come from no publication: replace
    them with your own measurements.

    Args:
        reference: temperature at which the device's other laws were measured [K].
        conductance_energy: activation energy of the conductance as a law of ``g`` [eV]; by default 0.2 eV at RESET and
            0.02 eV at full SET.
        nu_energy: activation energy of the drift exponent [eV]; the default of 0.026 makes the exponent proportional
            to the absolute temperature near 300 K.
        lowest: lowest accepted temperature [K].
        highest: highest accepted temperature [K]; crystallisation of the amorphous part above it is not modelled.

    Raises:
        ValueError: a number is out of its range.
        TypeError: ``conductance_energy`` is not a [`Law`][phasegrad.devices.Law].

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
        """Raise unless the laws are valid at a temperature [K]."""
        if not isinstance(temperature, (int, float)):
            raise ValueError(f"temperature = {temperature!r} is a {type(temperature).__name__}; it must be a float [K]")
        if not self.lowest <= temperature <= self.highest:
            raise ValueError(
                f"temperature = {temperature!r} K; it must be in [{self.lowest:g}, {self.highest:g}] K, the range of "
                "validity of Thermal; give kelvin, not degrees Celsius"
            )

    def inverse(self, temperature: Scalar) -> Scalar:
        """``(1/reference - 1/temperature) / k`` [1/eV]."""
        return (1.0 / self.reference - 1.0 / temperature) / BOLTZMANN

    def at_rest(self) -> Tensor:
        """Heat of a device that has always been at the reference temperature; see ``DeviceState``."""
        return torch.tensor([self.reference, 0.0], dtype=torch.float64)

    def spend(self, heat: Tensor, efolds: float) -> None:
        """Update the heat in place after the age grew by a number of e-folds at the present temperature."""
        heat[1] += math.expm1(self.nu_energy * self.inverse(float(heat[0]))) * efolds

    def factor(self, g: Tensor, nu: Tensor, heat: Tensor) -> Tensor:
        """Factor of drifted conductances that were programmed to ``g`` times ``g_max``."""
        inverse, efolds = self.inverse(heat[0]).to(g.dtype), heat[1].to(g.dtype)
        return torch.exp(self.conductance_energy(g) * inverse - nu * efolds)
