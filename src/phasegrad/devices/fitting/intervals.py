"""Confidence intervals: a bootstrap over devices, or the law's own likelihood where that is less certain.

Devices are independent, their measurements are not, so whole devices are resampled: each device gets the number of
times that it was drawn as its weight in the likelihood. The maximum of the weighted likelihood is that of its expansion
to third order around the estimate of all devices, because a search per resample takes a thousand times as long; what is
left is of the order of (spread of the resamples)^3. BCa corrects the median bias of the estimate and the change
of its error with its value, which are both large for variances. For few devices, quantiles are those of Student's
distribution, with the factor of the variance that maximum likelihood loses to its parameters; percentile intervals are
too short without them.

The bootstrap needs no law, and so covers reads or devices that depart from it. But its error is estimated from the
fourth power of deviations where a coefficient is a standard deviation: with 40 devices it is often far too small. The
law implies an error as well, that of its likelihood, which varies much less. Each end of an interval is the outer one
of both, as the larger of a robust and a conventional standard error is advised for small samples.

References:
    Efron, B. Better bootstrap confidence intervals. J. Am. Stat. Assoc. 82, 171 (1987).
    https://doi.org/10.1080/01621459.1987.10478410
    Hesterberg, T. C. What teachers should know about the bootstrap. Am. Stat. 69, 371 (2015): expanded percentiles.
    https://doi.org/10.1080/00031305.2015.1089789
    Kauermann, G. & Carroll, R. J. A note on the efficiency of sandwich covariance matrix estimation. J. Am. Stat.
    Assoc. 96, 1387 (2001): errors from deviations vary, so that intervals are too short.
    https://doi.org/10.1198/016214501753382309
    Angrist, J. D. & Pischke, J.-S. Mostly Harmless Econometrics, chapter 8 (Princeton University Press, 2009): the
    larger of both errors.
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
_SKEW = 1.0
"""Largest third derivative in standard errors; beyond, a likelihood is not nearly quadratic or cubic."""


def intervals(
    likelihood: LogLikelihood, maximum: Maximum, size: int, confidence: float, resamples: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Lower and upper ends ``[p]``."""
    inverse = torch.linalg.pinv(maximum.information.sum(0), hermitian=True)
    third = third_derivatives(likelihood, maximum, size)
    estimates = maximum.theta + _resampled(maximum, inverse, third, resamples, seed)
    low, high = _of_resamples(estimates, maximum.theta, maximum.scores @ inverse, confidence)
    below, above = _of_law(inverse, third, len(maximum.scores), confidence)
    return torch.minimum(low, maximum.theta + below), torch.maximum(high, maximum.theta + above)


def _resampled(maximum: Maximum, inverse: Tensor, third: Tensor, resamples: int, seed: int) -> Tensor:
    """Distance of the maxima of resamples from that of all devices ``[resamples, p]``."""
    devices = len(maximum.scores)
    drawn = np.random.default_rng(seed).multinomial(devices, np.full(devices, 1.0 / devices), size=resamples)
    weights = torch.from_numpy(drawn).double()
    first = weights @ maximum.scores @ inverse
    curved = torch.einsum("bj,jpq,bq->bp", weights - 1.0, maximum.information, first)
    bent = torch.einsum("pqr,bq,br->bp", third, first, first)
    limit = 0.5 * first.abs().amax(0)
    return first + ((0.5 * bent - curved) @ inverse).clamp(min=-limit, max=limit)


def _of_resamples(estimates: Tensor, theta: Tensor, influence: Tensor, confidence: float) -> tuple[Tensor, Tensor]:
    """Quantiles of the resampled estimates ``[resamples, p]`` at corrected levels."""
    below = (estimates < theta).double().mean(0).clamp(1e-6, 1.0 - 1e-6)
    bias = torch.special.ndtri(below).clamp(-_MOST, _MOST)
    acceleration = influence.pow(3).sum(0) / (6.0 * influence.square().sum(0).pow(1.5)).clamp(min=1e-300)
    reach = _student(confidence, _freedom(influence)) * _lost(*influence.shape)
    ends = []
    for z in (bias - reach, bias + reach):
        level = torch.special.ndtr(bias + z / (1.0 - acceleration * z).clamp(min=0.1))
        ends.append(torch.stack([torch.quantile(e, q) for e, q in zip(estimates.unbind(1), level, strict=True)]))
    return ends[0], ends[1]


def _of_law(inverse: Tensor, third: Tensor, devices: int, confidence: float) -> tuple[Tensor, Tensor]:
    """Distances below and above the estimate at which the profile likelihood has fallen as far as a quantile says.

    The profile is expanded to third order; the root of the cubic equation to second order in its skew.
    """
    error = inverse.diagonal().clamp(min=0.0).sqrt()
    # The way of the maximum as one parameter moves by a standard error; none where a bend of the law is the maximum.
    along = inverse / torch.where(error > 0.0, error, torch.inf)
    skew = torch.einsum("pqr,pi,qi,ri->i", third, along, along, along).clamp(-_SKEW, _SKEW)
    freedom = torch.tensor(max(devices - len(error), _LEAST_FREEDOM), dtype=error.dtype)
    q = _student(confidence, freedom) * _lost(devices, len(error))
    bent, bent_twice = skew * q.square() / 6.0, 5.0 * skew.square() * q.pow(3) / 72.0
    return error * (bent - q - bent_twice), error * (bent + q + bent_twice)


def _lost(devices: int, parameters: int) -> float:
    """Factor of the standard deviations that maximum likelihood loses to its parameters."""
    return math.sqrt(devices / max(devices - parameters, 4))


def _freedom(influence: Tensor) -> Tensor:
    """Degrees of freedom ``[p]`` of the error that resamples have.

    They are Satterthwaite's, those of a variance with the same spread as that of the influences: a coefficient that
    depends on few devices, or on their squares, has fewer than there are devices.
    """
    devices = len(influence)
    spread = influence.pow(4).sum(0) / influence.square().sum(0).square().clamp(min=1e-300) - 1.0 / devices
    return (2.0 / spread.clamp(min=1e-9)).clamp(_LEAST_FREEDOM, float(devices))


def _student(confidence: float, freedom: Tensor) -> Tensor:
    """Quantiles of Student's distribution; the series of Cornish and Fisher."""
    z = NormalDist().inv_cdf(0.5 + 0.5 * confidence)
    return z + (z**3 + z) / (4.0 * freedom) + (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / (96.0 * freedom.square())
