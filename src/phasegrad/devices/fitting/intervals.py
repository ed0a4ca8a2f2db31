"""Confidence intervals: a studentised bootstrap over devices.

Devices are independent, their measurements are not, so whole devices are resampled. A resample weights each device by
the times that it was drawn, and its estimate is one Newton step from the estimate of all devices, which differs from a
complete refit by terms of the order of 1 / devices. Each resample has its own standard error (of the sandwich form,
which holds for a likelihood that is only approximate), and the quantiles of (estimate* - estimate) / error* replace
those of the normal distribution. Percentile intervals, the alternative, are too short by about 1.96 / sqrt(devices) of
bias and skewness, which variances have.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from phasegrad.devices.fitting.likelihood import Maximum

_BATCH = 1 << 23


def covariance(information: Tensor, scores: Tensor, weights: Tensor) -> Tensor:
    """Covariance of estimates ``[batch, p, p]`` from scores ``[batch or 1, devices, p]`` at them."""
    inverse = torch.linalg.pinv(torch.einsum("bj,jpq->bpq", weights, information), hermitian=True)
    n = weights.sum(1)
    middle = torch.einsum("bj,bjp,bjq->bpq", weights, *(scores.expand(len(weights), -1, -1),) * 2)
    return inverse @ middle @ inverse * (n / (n - 1.0)).view(-1, 1, 1)


def intervals(maximum: Maximum, confidence: float, resamples: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Standard errors and ends of the intervals, ``[p]`` each."""
    devices, p = maximum.scores.shape
    ones = torch.ones(1, devices, dtype=torch.float64)
    error = covariance(maximum.information, maximum.scores[None], ones)[0].diagonal().clamp(min=0.0).sqrt()
    drawn = np.random.default_rng(seed).multinomial(devices, np.full(devices, 1.0 / devices), size=resamples)
    parts = torch.from_numpy(drawn).double().split(max(1, _BATCH // (devices * p)))
    studentised = torch.cat([_studentised(maximum, weights) for weights in parts])
    tail = 0.5 * (1.0 - confidence)
    low, high = torch.quantile(studentised, torch.tensor([tail, 1.0 - tail], dtype=torch.float64), dim=0)
    return error, maximum.theta - high * error, maximum.theta - low * error


def _studentised(maximum: Maximum, weights: Tensor) -> Tensor:
    curvature = torch.einsum("bj,jpq->bpq", weights, maximum.information)
    moved = (torch.linalg.pinv(curvature, hermitian=True) @ (weights @ maximum.scores).unsqueeze(2)).squeeze(2)
    scores = maximum.scores - torch.einsum("jpq,bq->bjp", maximum.information, moved)
    spread = covariance(maximum.information, scores, weights).diagonal(dim1=1, dim2=2).clamp(min=0.0).sqrt()
    return moved / spread.clamp(min=1e-300)
