"""Mean and variance of the reads of programmed devices, from the laws of the device and without samples.

The distributions are integrated in closed form: a normal distribution clipped at a lowest conductance (programming and
reads), and a power of time with a folded normal exponent (drift). Only the error of programming is integrated
numerically, because the read noise is a law of the conductance that it leaves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from phasegrad.devices.pcm import PCM

_NODES = 64
"""Points of the integral over the programming error."""
_REACH = 7.0
"""Standard deviations that it covers to either side."""


class ConductanceMoments(NamedTuple):
    """Moments of reads of devices, ``[ages, *shape]``, over devices and reads."""

    mean: Tensor
    """Mean conductance [S]."""
    variance: Tensor
    """Variance of one read [S^2]."""


def clipped_normal(mean: Tensor, sd: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and mean square of ``max(mean + sd z, 0)``."""
    a = mean / sd.clamp(min=1e-30)
    density, part = torch.exp(-0.5 * a * a) / math.sqrt(2.0 * math.pi), torch.special.ndtr(a)
    return mean * part + sd * density, (mean * mean + sd * sd) * part + mean * sd * density


def mean_magnitude(mean: Tensor, variance: Tensor) -> Tensor:
    """Mean of the magnitude of a normal variable."""
    sd = variance.clamp(min=1e-30).sqrt()
    return sd * math.sqrt(2.0 / math.pi) * torch.exp(-0.5 * (mean / sd) ** 2) + mean * torch.erf(
        mean / (sd * math.sqrt(2.0))
    )


def mean_decay(decay: Tensor, nu: Tensor, sd: Tensor) -> Tensor:
    """Mean of ``exp(-decay |nu + sd z|)``: drift over ``decay`` e-folds of age, with a folded normal exponent."""
    sd = sd.clamp(min=1e-12)
    spread = 0.5 * (decay * sd) ** 2
    up = spread - decay * nu + torch.special.log_ndtr(nu / sd - decay * sd)
    down = spread + decay * nu + torch.special.log_ndtr(-nu / sd - decay * sd)
    return up.exp() + down.exp()


def pcm_moments(device: PCM, target: Tensor, ages: Sequence[float]) -> ConductanceMoments:
    """Moments of one read at each age of devices programmed to targets; see ``PCM.conductance_moments``."""
    programmed, share = _programmed(device, target.double())
    q = device.read_noise(programmed / device.g_max) if device.read_noise else torch.zeros_like(programmed)
    g = target.double() / device.g_max
    nu, nu_sd = device.nu_mean(g), device.nu_sd(g)
    found = [_at_age(device, device.since(age), (programmed, share, q), (nu, nu_sd)) for age in ages]
    return ConductanceMoments(*(torch.stack(part) for part in zip(*found, strict=True)))


def _programmed(device: PCM, target: Tensor) -> tuple[Tensor, Tensor]:
    """Conductances after programming, and their probabilities, ``[nodes + 1, *shape]``; the last is the lowest one."""
    sd = _polynomial(device.programming_sd, target / device.g_max).clamp(min=0.0)
    low = ((device.lowest - target) / sd.clamp(min=1e-9 * device.g_max)).clamp(-_REACH, _REACH)
    points, weights = (t.view(-1, *[1] * target.dim()) for t in _legendre())
    half = 0.5 * (_REACH - low)
    z = low + half * (points + 1.0)
    share = weights * half * torch.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    conductance = torch.cat((target + sd * z, torch.full_like(target, device.lowest).unsqueeze(0)))
    share = torch.cat((share, torch.special.ndtr(low).unsqueeze(0)))
    return conductance, share / share.sum(0)


@lru_cache(maxsize=1)
def _legendre() -> tuple[Tensor, Tensor]:
    points, weights = np.polynomial.legendre.leggauss(_NODES)
    return torch.from_numpy(points), torch.from_numpy(weights)


def _polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value


def _at_age(
    device: PCM, since: float, programmed: tuple[Tensor, Tensor, Tensor], exponent: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Mean and variance of one read, at a time since programming [s]."""
    conductance, share, q = programmed
    decay = torch.tensor(math.log(since / device.t0), dtype=torch.float64)
    once, twice = mean_decay(decay, *exponent), mean_decay(2.0 * decay, *exponent)
    relative = q * math.sqrt(math.log((since + device.t_read) / (2.0 * device.t_read)))
    factor, square_factor = clipped_normal(torch.ones_like(q), relative)  # of 1/f noise, which is proportional
    mean, square = conductance * once * factor, conductance.square() * twice * square_factor
    if any(device.read_sd):
        drifted = conductance * once
        variance = (square - mean.square()).clamp(min=0.0) + _polynomial(device.read_sd, drifted).square()
        mean, square = clipped_normal(mean, variance.sqrt())
    total = (share * mean).sum(0)
    return total, ((share * square).sum(0) - total.square()).clamp(min=0.0)
