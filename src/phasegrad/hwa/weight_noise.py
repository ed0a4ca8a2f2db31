"""Noise that hardware-aware training adds to the weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch

from phasegrad.configuration import Configuration, check_number
from phasegrad.crossbar import Hardware, NoiseProfile
from phasegrad.devices import PCM
from phasegrad.hwa.programming_noise import programming_profiles


@dataclass(frozen=True, kw_only=True)
class WeightNoise(Configuration, ABC):
    """Noise that training adds to the weights, drawn independently at each step."""

    @abstractmethod
    def coefficients(self, hardware: Hardware) -> tuple[float, float, float]:
        """Coefficients ``(c0, c1, c2)`` of ``sd / scale = c0 + c1 |w| / scale + c2 (|w| / scale)^2``.

        ``scale`` is that of the weight's column.
        """

    def profiles(self, hardware: Hardware) -> tuple[NoiseProfile, ...]:
        """The noise of each slice of the cell, if ``coefficients`` cannot express it; empty otherwise."""
        return ()

    def beside_devices(self) -> WeightNoise | None:
        """The noise that a recipe with an ``age`` adds to the weights of its chips; ``None`` if they contain it."""
        return self


@final
@dataclass(frozen=True, kw_only=True)
class AdditiveNoise(WeightNoise):
    """Noise of one standard deviation for all weights of a column: ``sd = sigma * scale`` (Joshi et al. 2020).

    Args:
        sigma: standard deviation relative to the scale of the column.

    References:
        Joshi, V. et al. Accurate deep neural network inference using computational phase-change memory. Nat. Commun.
        11, 2473 (2020). https://doi.org/10.1038/s41467-020-16108-9
    """

    sigma: float

    def __post_init__(self) -> None:
        check_number(self, "sigma", 0.0)

    def coefficients(self, hardware: Hardware) -> tuple[float, float, float]:
        """Coefficients of a constant standard deviation."""
        return (self.sigma, 0.0, 0.0)


@final
@dataclass(frozen=True, kw_only=True)
class MultiplicativeNoise(WeightNoise):
    """Noise in proportion to the weight: ``sd = sigma * |w|``.

    Args:
        sigma: standard deviation relative to the weight.
    """

    sigma: float

    def __post_init__(self) -> None:
        check_number(self, "sigma", 0.0)

    def coefficients(self, hardware: Hardware) -> tuple[float, float, float]:
        """Coefficients of a standard deviation proportional to the weight."""
        return (0.0, self.sigma, 0.0)


@final
@dataclass(frozen=True, kw_only=True)
class PCMNoise(WeightNoise):
    """The programming noise of the hardware's own devices (Joshi et al. 2020), times ``strength``.

    The standard deviation of a weight is that of the programmed cell: the errors of all devices that store it add in
    quadrature, each at its own target. Devices at RESET are included, whose error is one-sided because a conductance
    cannot be below the lowest one, and so are the devices of a reference column. Noise is drawn for each weight alone:
    the error that the columns of a tile share because of their reference is not correlated in training. A recipe with
    an ``age`` programs devices instead, which leaves out nothing.

    Args:
        strength: factor of the programming noise; above 1 to cover read noise and drift variability as well.

    References:
        Joshi, V. et al. Accurate deep neural network inference using computational phase-change memory. Nat. Commun.
        11, 2473 (2020). https://doi.org/10.1038/s41467-020-16108-9
    """

    strength: float = 1.0

    def __post_init__(self) -> None:
        check_number(self, "strength", 0.0)

    def coefficients(self, hardware: Hardware) -> tuple[float, float, float]:
        """Coefficients of one device's programming noise over its window, averaged over the pairs of a cell.

        They are an approximation for pairs; training applies ``profiles``, which hold for every cell.
        """
        device = hardware.cell.device
        if not isinstance(device, PCM):
            raise TypeError(
                f"PCMNoise: the device of the cell is a {type(device).__name__}, which has no programming_sd; use "
                "AdditiveNoise or MultiplicativeNoise"
            )
        if len(device.programming_sd) > 3:
            c0, c1, c2 = _quadratic(device.programming_sd)
        else:
            c0, c1, c2 = (*device.programming_sd, *(0.0,) * (3 - len(device.programming_sd)))
        # A weight of 0 is at g_min; its magnitude spans the rest of the range.
        start, rest = device.lowest / device.g_max, device.window / device.g_max
        c0, c1, c2 = c0 + start * (c1 + start * c2), rest * (c1 + 2.0 * start * c2), rest * rest * c2
        # The pairs of a cell have independent errors, which average out.
        factors = torch.tensor(hardware.cell.factors[::2])
        scale = self.strength / device.window * float(factors.square().sum().sqrt())
        return (c0 * scale, c1 * scale, c2 * scale)

    def profiles(self, hardware: Hardware) -> tuple[NoiseProfile, ...]:
        """The standard deviation of the hardware's programmed cells, slice by slice."""
        return programming_profiles(hardware.cell, self.strength)

    def beside_devices(self) -> None:
        """``None``: a recipe with an ``age`` programs devices, which have this noise at a strength of 1.

        Raises:
            ValueError: ``strength`` is not 1.
        """
        if self.strength != 1.0:
            raise ValueError(
                f"Recipe: noise = PCMNoise(strength={self.strength}) with an age, for which training programs devices "
                "with their own error, drift and read noise; leave strength at 1, and add AdditiveNoise if you want "
                "more noise than the devices have"
            )


def _quadratic(polynomial: tuple[float, ...]) -> tuple[float, float, float]:
    """Least-squares parabola of a polynomial of higher degree over [0, 1]."""
    g = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
    powers = torch.stack([g**k for k in range(3)], dim=1)
    value = sum((c * g**k for k, c in enumerate(polynomial)), start=torch.zeros_like(g))
    fit = torch.linalg.lstsq(powers, value.unsqueeze(1)).solution.flatten().tolist()
    return fit[0], fit[1], fit[2]
