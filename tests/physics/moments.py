"""Moments of functions of a standard normal, and deviations of a sample's mean and standard deviation from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

_X = np.linspace(-9.0, 9.0, 40_001)
_WEIGHT = np.exp(-0.5 * _X**2)
_WEIGHT /= _WEIGHT.sum()

Moments = np.ndarray
"""The raw moments E[y], E[y^2], E[y^3], E[y^4]."""


def raw_moments(function: Callable[[np.ndarray], np.ndarray]) -> Moments:
    """Moments of ``function(X)`` for a standard normal X, by quadrature."""
    y = function(_X)
    return np.array([np.sum(_WEIGHT * y**k) for k in (1, 2, 3, 4)])


def central(raw: Moments) -> tuple[float, float, float]:
    """Mean, variance, and fourth central moment."""
    m1, m2, m3, m4 = raw
    return m1, m2 - m1**2, m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4


def z_scores(sample: np.ndarray, raw: Moments) -> Sequence[float]:
    """Deviations of the sample's mean and standard deviation, in their standard errors."""
    mean, variance, fourth = central(raw)
    n, sd = sample.size, np.sqrt(variance)
    error_of_sd = np.sqrt((fourth - variance**2) / n) / (2.0 * sd)
    return (sample.mean() - mean) * np.sqrt(n) / sd, (sample.std() - sd) / error_of_sd
