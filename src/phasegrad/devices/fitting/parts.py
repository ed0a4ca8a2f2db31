"""Likelihoods of the laws of a programmed device, given one regression per device."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from phasegrad.devices.fitting.forms import Form, polynomial

_LEAST = 1e-5
"""Lower bound of standard deviations during a search, relative to the units here."""


class Devices(NamedTuple):
    """Devices of one fit, ``[devices]``."""

    g: Tensor
    """Target over ``g_max``."""
    programmed: Tensor
    """Conductance over ``g_max``."""
    conductance: Tensor
    """Conductance [µS]."""
    error: Tensor
    """Conductance minus target [µS]."""
    nu: Tensor
    conductance_variance: Tensor
    nu_variance: Tensor
    residual: Tensor
    freedom: Tensor


def read_noise(q: Tensor, of: Devices) -> Tensor:
    """Residuals are ``q^2`` times a chi-squared variable."""
    return -0.5 * (2.0 * of.freedom * q.log() + of.residual / q.square())


def normal(y: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Logarithm of the normal density."""
    return -0.5 * ((y - mean).square() / variance + variance.log() + math.log(2.0 * math.pi))


def drift(mean: Tensor, sd: Tensor, noise: Tensor, nu: Tensor) -> Tensor:
    """Measured exponents: the absolute value of a normal variable, plus a normal error of variance ``noise``.

    The density is the sum, over both signs of the variable, of a normal density times the probability that the true
    exponent, given the measured one, has that sign.
    """
    sd = sd.clamp(min=_LEAST)
    variance = sd.square() + noise
    tau = (sd * noise.sqrt() / variance.sqrt()).clamp(min=1e-12)
    sides = [
        normal(nu, side, variance) + torch.special.log_ndtr((side * noise + nu * sd.square()) / (variance * tau))
        for side in (mean, -mean)
    ]
    return torch.logaddexp(*sides)


def programming(coefficients: Tensor, noise: Tensor, of: Devices) -> Tensor:
    """Errors around the target; what was clipped at 0 counts with the probability of that."""
    sd = polynomial(coefficients, of.g).clamp(min=_LEAST)
    variance = sd.square() + noise
    clipped = torch.special.log_ndtr((of.error - of.conductance) / variance.sqrt())
    return torch.where(of.conductance > 0.0, normal(of.error, torch.zeros_like(variance), variance), clipped)


def start_of_programming(of: Devices, degree: int) -> Tensor:
    """Coefficients by least squares of the absolute errors."""
    powers = torch.stack([of.g**k for k in range(degree + 1)], 1)
    size = of.error.abs() * math.sqrt(0.5 * math.pi)
    return torch.linalg.lstsq(powers, size.unsqueeze(1), driver="gelsd").solution.squeeze(1)


def start_of_drift(of: Devices, q: Tensor, mean: Form, sd: Form) -> Tensor:
    """Parameters of both laws by least squares."""
    first = mean.start(of.g, of.nu)
    apart = (of.nu - mean.value(first[None], of.g)[0]).abs() * math.sqrt(0.5 * math.pi)
    noise = float((q.square() * of.nu_variance).mean())
    level = float(apart.square().mean())
    shrunk = math.sqrt(max(level - noise, 0.04 * level) / level)
    return torch.cat((first, sd.start(of.g, apart * shrunk)))


def error_of_level(of: Devices, levels: int) -> float:
    """Standard error of the mean exponent of one level, from differences of devices next to each other in ``g``."""
    apart = of.nu[of.g.argsort(stable=True)].diff().abs().median() / (math.sqrt(2.0) * NormalDist().inv_cdf(0.75))
    return float(apart) / math.sqrt(len(of.g) / levels)
