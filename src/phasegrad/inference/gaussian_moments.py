"""Mean and variance of functions of independent normal variables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_NODES = 20


class MeanVariance(NamedTuple):
    """Mean and variance of independent variables, two tensors of one shape."""

    mean: Tensor
    variance: Tensor

    def over(self, function: Callable[[Tensor], Tensor]) -> MeanVariance:
        """A rearrangement of the variables."""
        return MeanVariance(function(self.mean), function(self.variance))


def clipped(x: MeanVariance, low: float | Tensor, high: float | Tensor) -> MeanVariance:
    """Moments of normal variables clipped to ``[low, high]``, exactly; a rectifier clips to ``[0, inf]``."""
    mean = x.mean.double()
    sd = x.variance.double().clamp(min=0.0).sqrt()
    safe = torch.where(sd > 0.0, sd, torch.ones_like(sd))
    bounds = [torch.as_tensor(b, dtype=torch.float64, device=mean.device) for b in (low, high)]
    a, b = ((bound - mean) / safe for bound in bounds)
    density_a, density_b = (torch.exp(-0.5 * t.square()) / math.sqrt(2.0 * math.pi) for t in (a, b))
    below, above = torch.special.ndtr(a), torch.special.ndtr(-b)
    inside = 1.0 - below - above
    # Moments of the standardised variable t; a bound at infinity contributes 0, not infinity times 0.
    at_a, at_b = (torch.where(torch.isfinite(t), t, torch.zeros_like(t)) for t in (a, b))
    first = density_a - density_b + at_a * below + at_b * above
    second = inside + at_a * density_a - at_b * density_b + at_a.square() * below + at_b.square() * above
    variance = (second - first.square()).clamp(min=0.0) * sd.square()
    fixed = torch.minimum(torch.maximum(mean, bounds[0]), bounds[1])
    known = sd > 0.0
    found = torch.where(known, mean + sd * first, fixed), torch.where(known, variance, torch.zeros_like(sd))
    return MeanVariance(*(f.to(x.mean.dtype) for f in found))


def absolute_mean(mean: Tensor, variance: Tensor) -> Tensor:
    """Mean of the absolute value of normal variables."""
    sd = variance.clamp(min=1e-30).sqrt()
    t = mean / sd
    return sd * math.sqrt(2.0 / math.pi) * torch.exp(-0.5 * t.square()) + mean * torch.erf(t / math.sqrt(2.0))


def pointwise(x: MeanVariance, function: Callable[[Tensor], Tensor]) -> MeanVariance:
    """Moments of a function of each variable, by Gauss-Hermite quadrature with 20 nodes."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    weights = weights / weights.sum()
    sd = x.variance.clamp(min=0.0).sqrt()
    mean, square = torch.zeros_like(sd), torch.zeros_like(sd)
    for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
        value = function(x.mean + node * sd)
        mean, square = mean + weight * value, square + weight * value.square()
    return MeanVariance(mean, (square - mean.square()).clamp(min=0.0))


def maximum(variables: Iterable[MeanVariance]) -> MeanVariance:
    """Moments of the largest of independent normal variables, two at a time.

    References:
        Clark, C. E. The greatest of a finite set of random variables. Oper. Res. 9, 145-162 (1961).
        https://doi.org/10.1287/opre.9.2.145
    """
    first, *others = variables
    for other in others:
        first = _larger(first, other)
    return first


def _larger(x: MeanVariance, y: MeanVariance) -> MeanVariance:
    spread = (x.variance + y.variance).clamp(min=1e-30).sqrt()
    t = (x.mean - y.mean) / spread
    density, part = torch.exp(-0.5 * t.square()) / math.sqrt(2.0 * math.pi), torch.special.ndtr(t)
    mean = x.mean * part + y.mean * (1.0 - part) + spread * density
    # The second moment about the mean of x, so that no digits are lost where means are large.
    apart = y.mean - x.mean
    square = x.variance * part + (y.variance + apart.square()) * (1.0 - part) + apart * spread * density
    return MeanVariance(mean, (square - (mean - x.mean).square()).clamp(min=0.0))


def probability_largest(x: MeanVariance, labels: Tensor) -> Tensor:
    """Probability that the variable ``[n, classes]`` at each label ``[n]`` is the largest, by quadrature ``[n]``."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(48)
    mean, sd = x.mean.double(), x.variance.double().clamp(min=1e-30).sqrt()
    index = labels.view(-1, 1)
    own, own_sd = mean.gather(1, index), sd.gather(1, index)
    total = torch.zeros_like(own[:, 0])
    for node, weight in zip(nodes.tolist(), (weights / weights.sum()).tolist(), strict=True):
        below = torch.special.ndtr((own + node * own_sd - mean) / sd).scatter(1, index, 1.0)
        total = total + weight * below.prod(1)
    return total
