"""Likelihood of pulse trains that were read with noise.

A read error enters the step before it and the step after it, with opposite signs, and the conductance on which the
next step depends is not the one that was read. Regression on reads then finds steps that vary too much and depend too
steeply on the conductance. Here the conductance is a hidden state: after each pulse its distribution is predicted,
compared with the read, and corrected. Bounds leave a part of the probability at the bound; the corrected distribution,
a mixture, is replaced by a normal one with its mean and variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Moments = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""Conductance and column of the trains to mean, with its sign, and standard deviation of the step there."""
_ROUNDING = 1e-6
"""Relative error of conductances that were stored as float32."""
_FLOORED = 0.4
"""A read of 0 may be any value below; the density at this many read errors below 0, times the error, replaces it."""


class Trains(NamedTuple):
    """Pulse trains ``[devices, pulses + 1]``, padded with NaN."""

    reads: Tensor
    """Reads [µS]."""
    number: Tensor
    """Pulse numbers."""
    read_sd: tuple[float, ...]
    """Standard deviation of a read as coefficients of powers of the conductance [µS]."""

    def read_variance(self) -> Tensor:
        """Variance of each read, at the conductance that it found."""
        sd = torch.zeros_like(self.reads)
        for coefficient in reversed(self.read_sd):
            sd = sd * self.reads + coefficient
        return sd.square()


def log_normal(y: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Logarithm of the normal density."""
    return -0.5 * ((y - mean).square() / variance + variance.log() + math.log(2.0 * math.pi))


def at_bounds(after: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Which conductances after a step lie at the lower and at the upper bound."""
    return after <= low + _ROUNDING * abs(low), after >= high * (1.0 - _ROUNDING)


def exact_steps(after: Tensor, mean: Tensor, sd: Tensor, low: float, high: float) -> Tensor:
    """Log-likelihood of conductances after a step that were read without noise; those at a bound were clipped there."""
    log = log_normal(after, mean, sd.square())
    below, above = (clipped.nonzero().flatten() for clipped in at_bounds(after, low, high))
    log[..., below] = torch.special.log_ndtr(((low - mean) / sd)[..., below])
    log[..., above] = torch.special.log_ndtr(((mean - high) / sd)[..., above])
    return log


def filtered(
    trains: Trains, moments: Moments, first: tuple[Tensor, Tensor] | None, low: Tensor, high: float
) -> Tensor:  # fmt: skip
    """Log-likelihood of all trains ``[..., devices]``.

    Args:
        trains: the trains.
        moments: the step law.
        first: mean and variance of the conductance before the first read; ``None`` if only that read tells.
        low: lowest conductance.
        high: highest conductance.
    """
    noise = trains.read_variance().nan_to_num(1.0)
    total = trains.reads.new_zeros(())
    mean, variance = first or (trains.reads[:, 0], noise[:, 0])
    for k in range(0 if first else 1, trains.reads.shape[1]):
        if k:
            mean, variance = _predict(mean, variance, k, moments)
        read = trains.reads[:, k]
        log, mean, variance = _correct(read.nan_to_num(1.0), noise[:, k], mean, variance, low, high)
        total = total + torch.where(read.isnan(), 0.0, log)
    return total


def _predict(mean: Tensor, variance: Tensor, k: int, moments: Moments) -> tuple[Tensor, Tensor]:
    (step, sd), h = moments(mean, k), 1e-3
    slope = (moments(mean + h, k)[0] - moments(mean - h, k)[0]) / (2.0 * h)
    return mean + step, sd.square() + (1.0 + slope).square() * variance


def _correct(
    read: Tensor, noise: Tensor, mean: Tensor, variance: Tensor, low: Tensor, high: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-density of a read, and mean and variance of the conductance given it."""
    floored, error = read <= 0.0, noise.sqrt()
    y = torch.where(floored, -_FLOORED * error, read)
    sd, total = variance.sqrt(), variance + noise
    centre, spread = (mean * noise + y * variance) / total, (sd * error / total.sqrt()).clamp(min=1e-9)
    at_low = torch.special.log_ndtr((low - mean) / sd) + log_normal(y, low, noise)
    at_high = torch.special.log_ndtr((mean - high) / sd) + log_normal(y, torch.full_like(y, min(high, 1e6)), noise)
    between = log_normal(y, mean, total) + torch.special.log_ndtr((centre - low) / spread)
    logs = torch.stack(torch.broadcast_tensors(at_low, between, at_high))
    log = torch.logsumexp(logs, 0)
    inside_mean, inside_variance = _truncated(centre, spread, low, high)
    means = torch.stack(torch.broadcast_tensors(low, inside_mean, torch.full_like(inside_mean, min(high, 1e6))))
    shares = (logs - log).exp()
    new = (shares * means).sum(0)
    kept = (shares * (means - new).square()).sum(0) + shares[1] * inside_variance
    return log + torch.where(floored, error.log(), 0.0), new, kept.clamp(min=1e-8)


def _truncated(mean: Tensor, sd: Tensor, low: Tensor, high: float) -> tuple[Tensor, Tensor]:
    """Mean and variance of a normal variable above a bound."""
    a = ((low - mean) / sd).clamp(-30.0, 30.0)
    mills = torch.exp(-0.5 * a * a - 0.5 * math.log(2.0 * math.pi) - torch.special.log_ndtr(-a))
    return (mean + sd * mills).clamp(max=high), sd.square() * (1.0 + a * mills - mills.square()).clamp(min=1e-6)
