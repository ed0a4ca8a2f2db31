"""Confidence intervals: a bias-corrected and accelerated bootstrap (BCa) over devices.

Devices are independent, their measurements are not, so whole devices are resampled: each device gets the number of
times that it was drawn as its weight in the likelihood. The maximum of the weighted likelihood is that of its expansion
to third order around the estimate of all devices, because a search per resample takes a thousand times as long; what is
left is of the order of (spread of the resamples)^3. BCa corrects the median bias of the estimate and the change
of its error with its value, which are both large for variances. For few devices, quantiles are those of Student's
distribution, with the factor of the variance that maximum likelihood loses to its parameters; percentile intervals are
too short without them.

References:
    Efron, B. Better bootstrap confidence intervals. J. Am. Stat. Assoc. 82, 171 (1987).
    https://doi.org/10.1080/01621459.1987.10478410
    Hesterberg, T. C. What teachers should know about the bootstrap. Am. Stat. 69, 371 (2015): expanded percentiles.
    https://doi.org/10.1080/00031305.2015.1089789
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from phasegrad.devices.fitting.likelihood import LogLikelihood, Maximum, third_derivatives

_LEAST_FREEDOM = 5.0
_MOST = 3.0
"""Largest correction of bias, in standard errors; beyond, all resamples lie on one side."""


def intervals(
    likelihood: LogLikelihood, maximum: Maximum, size: int, confidence: float, resamples: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Lower and upper ends ``[p]``."""
    devices = len(maximum.scores)
    drawn = np.random.default_rng(seed).multinomial(devices, np.full(devices, 1.0 / devices), size=resamples)
    weights = torch.from_numpy(drawn).double()
    whole = maximum.information.sum(0)
    inverse = torch.linalg.pinv(whole, hermitian=True)
    first = weights @ maximum.scores @ inverse
    curved = torch.einsum("bj,jpq,bq->bp", weights - 1.0, maximum.information, first)
    bent = torch.einsum("pqr,bq,br->bp", third_derivatives(likelihood, maximum, size), first, first)
    second = (0.5 * bent - curved) @ inverse
    limit = 0.5 * first.abs().amax(0)
    estimates = maximum.theta + first + second.clamp(min=-limit, max=limit)
    return _ends(estimates, maximum.theta, maximum.scores @ inverse, confidence)


def _ends(estimates: Tensor, theta: Tensor, influence: Tensor, confidence: float) -> tuple[Tensor, Tensor]:
    """Quantiles of the resampled estimates ``[resamples, p]`` at corrected levels."""
    below = (estimates < theta).double().mean(0).clamp(1e-6, 1.0 - 1e-6)
    bias = torch.special.ndtri(below).clamp(-_MOST, _MOST)
    acceleration = influence.pow(3).sum(0) / (6.0 * influence.square().sum(0).pow(1.5)).clamp(min=1e-300)
    reach = _student(confidence, influence)
    ends = []
    for z in (bias - reach, bias + reach):
        level = torch.special.ndtr(bias + z / (1.0 - acceleration * z).clamp(min=0.1))
        ends.append(torch.stack([torch.quantile(e, q) for e, q in zip(estimates.unbind(1), level, strict=True)]))
    return ends[0], ends[1]


def _student(confidence: float, influence: Tensor) -> Tensor:
    """Quantiles ``[p]`` of Student's distribution over the error that resamples have; the series of Cornish and Fisher.

    The degrees of freedom are Satterthwaite's, those of a variance with the same spread as that of the influences: a
    coefficient that depends on few devices, or on their squares, has fewer than there are devices.
    """
    devices, parameters = influence.shape
    spread = influence.pow(4).sum(0) / influence.square().sum(0).square().clamp(min=1e-300) - 1.0 / devices
    freedom = (2.0 / spread.clamp(min=1e-9)).clamp(_LEAST_FREEDOM, float(devices))
    z = NormalDist().inv_cdf(0.5 + 0.5 * confidence)
    t = z + (z**3 + z) / (4.0 * freedom) + (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / (96.0 * freedom.square())
    return t * math.sqrt(devices / max(devices - parameters, 4))
