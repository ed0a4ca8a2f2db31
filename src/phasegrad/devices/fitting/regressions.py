"""Drift of single devices: conductance and exponent by generalised least squares, and the noise that remains.

A read is ``G (T / t0)^-nu (1 + Q e)``, T seconds after programming; the relative errors ``e`` have a covariance ``R``
that the read duration determines: diagonal for noise that each read redraws, or that of 1/f noise, whose slow part
successive reads share. The equation ``X' R^-1 (y / m - 1) = 0`` is solved, which has no bias from the logarithm of a
noisy read.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from phasegrad.devices.fitting.measurements import Measurements

_STEPS = 60


class Regressions(NamedTuple):
    """One regression per device, ``[devices]``."""

    conductance: Tensor
    """At ``t0`` [µS]."""
    nu: Tensor
    conductance_variance: Tensor
    """Of the logarithm of the conductance, in units of ``Q^2``."""
    nu_variance: Tensor
    """In units of ``Q^2``."""
    residual: Tensor
    """Sum of squares of the residuals, in units of ``R``; ``Q^2`` times chi-squared of ``freedom``."""
    freedom: Tensor
    determinant: Tensor
    """Logarithm of the determinants of ``R`` and ``X' R^-1 X``, which compare covariances."""


def covariance(times: Tensor, t_read: float, correlated: bool) -> Tensor:
    """Covariance of relative read errors at times [s], in units of ``Q^2``."""
    variance = torch.log((times + t_read) / (2.0 * t_read))
    if not correlated:
        return torch.diag(variance)
    first, apart = torch.minimum(times[:, None], times), (times[:, None] - times).abs()
    shared = torch.log1p(2.0 * first / apart.clamp(min=4.0 * t_read))
    return torch.where(apart > 0.0, torch.minimum(shared, variance.min()), torch.diag(variance))


def regress(found: Measurements, t0: float, t_read: float, correlated: bool) -> Regressions:
    """Fit every device; devices that were read at the same times are fitted together."""
    rows: dict[tuple[float, ...], list[int]] = {}
    ends = torch.cat((torch.zeros(1, dtype=torch.int64), torch.bincount(torch.from_numpy(found.device)).cumsum(0)))
    times, reads = torch.from_numpy(found["time"]), torch.from_numpy(found["conductance"]) * 1e6
    for device in range(found.devices):
        rows.setdefault(tuple(times[ends[device] : ends[device + 1]].tolist()), []).append(device)
    result = torch.empty(7, found.devices, dtype=torch.float64)
    for at, devices in rows.items():
        y = torch.stack([reads[ends[device] : ends[device + 1]] for device in devices])
        result[:, devices] = _together(torch.tensor(at, dtype=torch.float64), y, t0, t_read, correlated)
    return Regressions(*result)


def _together(times: Tensor, y: Tensor, t0: float, t_read: float, correlated: bool) -> Tensor:
    """Regressions ``[7, devices]`` of reads ``[devices, reads]`` at the same times."""
    r = covariance(times, t_read, correlated)
    weight = torch.linalg.inv(r)
    x = torch.stack((torch.ones_like(times), -(times / t0).log()), 1)
    inner = x.t() @ weight @ x
    update = torch.linalg.solve(inner, x.t() @ weight)
    theta = torch.stack((y.mean(1).clamp(min=1e-9).log(), torch.zeros(len(y), dtype=y.dtype)), 1)
    for _ in range(_STEPS):
        error = y / (theta @ x.t()).exp() - 1.0
        step = error @ update.t()
        theta = theta + step.clamp(-1.0, 1.0)
        if float(step.abs().max()) < 1e-12:
            break
    error = y / (theta @ x.t()).exp() - 1.0
    variances = torch.linalg.inv(inner).diagonal()
    ones = torch.ones_like(theta[:, 0])
    determinant = float(torch.logdet(r) + torch.logdet(inner))
    return torch.stack(
        (
            theta[:, 0].exp(), theta[:, 1], variances[0] * ones, variances[1] * ones,
            torch.einsum("dj,jk,dk->d", error, weight, error), (len(times) - 2.0) * ones, determinant * ones,
        )
    )  # fmt: skip


def restricted_likelihood(found: Regressions, q: Tensor) -> float:
    """Log-likelihood of the residuals of all devices for noise ``q`` ``[devices]``, to compare covariances."""
    normal = found.freedom * (math.log(2.0 * math.pi) + 2.0 * q.log()) + found.residual / q.square()
    return float(-0.5 * (normal + found.determinant).sum())
