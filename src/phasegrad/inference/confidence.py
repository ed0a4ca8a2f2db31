"""Confidence intervals of what a sample of chips says about all chips."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda values: values.mean(-1),
    "median": lambda values: np.median(values, -1),
    "sd": lambda values: values.std(-1, ddof=1),
}


def bootstrap_interval(
    values: np.ndarray, statistic: str, confidence: float, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Expanded percentile bootstrap interval over the last axis of ``[rows, n]``.

    Plain percentiles are too narrow by a factor of about ``sqrt((n - 1) / n) z / t``. Here they are moved outwards so
    that the interval of a normal mean has the width of Student's, and its skewness stays that of the data.

    Args:
        values: ``[rows, n]``, n of at least 2; a resample draws the same columns for all rows.
        statistic: a key of ``STATISTICS``.
        confidence: probability that the interval contains the value of the population.
        resamples: number of resamples.
        seed: seed of the resampling.

    Returns:
        The lower and the upper ends ``[rows]``.

    References:
        Hesterberg, T. C. What teachers should know about the bootstrap: resampling in the undergraduate statistics
        curriculum. Am. Stat. 69, 371-386 (2015), section 4.3. https://doi.org/10.1080/00031305.2015.1089789
    """
    n = values.shape[1]
    chosen = np.random.default_rng(seed).integers(n, size=(resamples, n))
    of_resamples = np.stack([STATISTICS[statistic](row[chosen]) for row in values])
    tail = 0.5 * (1.0 - confidence)
    expanded = 0.5 * math.erfc(math.sqrt(0.5 * n / (n - 1)) * student_quantile(1.0 - tail, n - 1))
    low, high = np.quantile(of_resamples, (expanded, 1.0 - expanded), axis=1)
    return low, high


def student_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t distribution, for a probability of at least 0.5 and an integer of degrees of freedom."""
    low, high = 0.0, 0.5 * math.pi
    for _ in range(60):  # bisection over the angle atan(t / sqrt(freedom)) to the last digit
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _student_at_angle(middle, freedom) < probability else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _student_at_angle(angle: float, freedom: int) -> float:
    """Student's distribution function at ``sqrt(freedom) tan(angle)`` (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = 0.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= k / (k + 1) * cosine * cosine
    if not odd:
        return 0.5 + 0.5 * sine * total
    return 0.5 + (angle + sine * total) / math.pi


def proportion_interval(count: np.ndarray, n: int, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Exact interval of a proportion, from ``count`` successes among ``n`` (Clopper and Pearson).

    References:
        Clopper, C. J. and Pearson, E. S. The use of confidence or fiducial limits illustrated in the case of the
        binomial. Biometrika 26, 404-413 (1934). https://doi.org/10.1093/biomet/26.4.404
    """
    tail = 0.5 * (1.0 - confidence)
    low = np.where(count == 0, 0.0, _proportion_with_tail(count, n, tail))
    high = np.where(count == n, 1.0, 1.0 - _proportion_with_tail(n - count, n, tail))
    return low, high


def _proportion_with_tail(count: np.ndarray, n: int, tail: float) -> np.ndarray:
    """The proportion at which ``count`` or more successes among ``n`` have the probability ``tail``."""
    low, high = np.zeros(count.shape), np.ones(count.shape)
    for _ in range(60):
        middle = 0.5 * (low + high)
        below = _upper_tail(count, n, middle) < tail
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return low


def _upper_tail(count: np.ndarray, n: int, p: np.ndarray) -> np.ndarray:
    """Probability of at least ``count`` successes among ``n``, each of probability ``p`` strictly between 0 and 1."""
    k = np.arange(n + 1)
    choices = np.array([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in k])
    terms = np.exp(choices + np.multiply.outer(np.log(p), k) + np.multiply.outer(np.log1p(-p), n - k))
    return (terms * (k >= count[..., None])).sum(-1)
