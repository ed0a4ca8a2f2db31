"""The normals of all noise, within 5 standard errors, each derived from the sample size."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats

import phasegrad.ops  # noqa: F401 (registers the ops)

SHAPE = (100, 100, 100)
N = math.prod(SHAPE)
SEEDS = (0, 1, -(2**40) - 17)
BOUND = 5.0


@cache
def normals(seed: int, offset: int = 0) -> np.ndarray:
    return torch.ops.phasegrad.normal(torch.tensor([seed]), offset, list(SHAPE)).double().numpy()


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two standardised samples, in standard errors."""
    return float(abs((a * b).mean()) * math.sqrt(a.size))


@pytest.mark.parametrize("seed", SEEDS)
def test_moments_are_those_of_a_standard_normal(seed: int) -> None:
    z = normals(seed)
    assert abs(z.mean()) < BOUND / math.sqrt(N)
    assert abs(z.var() - 1.0) < BOUND * math.sqrt(2.0 / N)
    assert abs(stats.skew(z, axis=None)) < BOUND * math.sqrt(6.0 / N)
    assert abs(stats.kurtosis(z, axis=None)) < BOUND * math.sqrt(24.0 / N)


def tail_probability(z: np.ndarray, sigmas: float) -> float:
    """Poisson probability of a count beyond ``sigmas`` as unlikely as this, for the worse of the two tails."""
    expected = z.size * stats.norm.sf(sigmas)
    counts = ((z > sigmas).sum(), (z < -sigmas).sum())
    return min(min(stats.poisson.cdf(c, expected), stats.poisson.sf(c - 1, expected)) for c in counts)


@pytest.mark.parametrize("sigmas", [3.0, 4.0, 5.0])
def test_tails_hold_their_share(sigmas: float) -> None:
    z = np.stack([normals(seed) for seed in SEEDS])
    assert tail_probability(z, sigmas) > stats.norm.sf(BOUND)


@pytest.mark.parametrize("seed", SEEDS)
def test_distribution_is_normal_everywhere(seed: int) -> None:
    distance = stats.kstest(normals(seed).ravel(), "norm").statistic
    assert distance < min(2e-3, 2.2 / math.sqrt(N))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("power", [1, 2])
def test_neighbours_along_an_axis_are_independent(axis: int, power: int) -> None:
    # Squares too: the two normals of one Box-Muller pair share a radius and differ in angle.
    z = np.moveaxis(normals(0), axis, 0) ** power
    z = (z - z.mean()) / z.std()
    assert max(correlation(z[lag:], z[:-lag]) for lag in (1, 2, 3, 16, 32, 48, 64)) < BOUND


@pytest.mark.parametrize("power", [1, 2])
def test_no_lag_of_the_flat_stream_shows(power: int) -> None:
    z = normals(0).ravel() ** power
    z = (z - z.mean()) / z.std()
    spectrum = np.abs(np.fft.rfft(z)) ** 2
    by_lag = np.abs(np.fft.irfft(spectrum)[1 : N // 2]) / math.sqrt(N)
    # The largest of half a million standard normals lies near 5.1; 6.5 is exceeded once in 25,000 streams.
    assert by_lag.max() < 6.5


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("other", [(0, 1), (0, 2**32), (1, 0), (2**32, 0), (-1, 0)], ids=str)
def test_streams_and_seeds_are_independent(other: tuple[int, int], power: int) -> None:
    a, b = normals(0) ** power, normals(*other) ** power
    assert correlation((a - a.mean()) / a.std(), (b - b.mean()) / b.std()) < BOUND


@pytest.mark.parametrize("bad", ["shifted", "scaled", "clipped", "repeated"])
def test_a_bad_stream_would_be_found(bad: str) -> None:
    z = normals(0)
    if bad == "shifted":
        assert abs((z + 0.01).mean()) > BOUND / math.sqrt(N)
    if bad == "scaled":
        assert abs((1.01 * z).var() - 1.0) > BOUND * math.sqrt(2.0 / N)
    if bad == "clipped":
        assert tail_probability(z.clip(-4.0, 4.0), 4.0) < stats.norm.sf(BOUND)
    if bad == "repeated":
        assert correlation(np.repeat(z.ravel(), 2)[1:], np.repeat(z.ravel(), 2)[:-1]) > BOUND


def test_uniforms_fill_their_cells_alike() -> None:
    u = torch.ops.phasegrad.uniform(torch.tensor([0]), 0, [N]).double().numpy()
    assert u.min() >= 0.0
    assert u.max() < 1.0
    counts = np.bincount((u * 1000).astype(int), minlength=1000)
    chi_square = ((counts - N / 1000) ** 2 / (N / 1000)).sum()
    assert abs(chi_square - 999) < BOUND * math.sqrt(2 * 999)
