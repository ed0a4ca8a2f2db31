"""1/f noise as a process in time, and telegraph noise, follow theory: variance at every age, covariance at every lag.

Modes that start at 0 with the variance Q^2 per e-fold of rate up to ``r = exp(-0.5772) / (4 t_read)`` have, at a lag
``tau`` after the age T, the covariance ``Q^2 (Ein(r (2 T + tau)) - Ein(r tau))``, ``Ein(z) = E1(z) + ln z + 0.5772``:
``Q^2 ln(1 + 2 T / tau)`` where ``r tau`` is large, and ``Q^2 ln(T / (2 t_read))`` for ``tau = 0``.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import exp1

from phasegrad.devices import PCM, CorrelatedNoise, DeviceState, Telegraph, ideal_device, joshi_2020, trace
from phasegrad.devices.tracing import _scan
from phasegrad.testing import SEED, at_age

T_READ, T0 = 250e-9, 20.0
N = 200_000
EULER = 0.5772156649015329
LAGS = 10.0 ** np.arange(-4, 6)  # ten decades


def ein(z: float) -> float:
    return exp1(z) + math.log(z) + EULER if z > 0 else 0.0


def covariance(since: float, lag: float) -> float:
    """Covariance in units of ``Q^2`` of a device of a given age [s]."""
    rate = math.exp(-EULER) / (4.0 * T_READ)
    return ein(rate * (2.0 * since + lag)) - ein(rate * lag)


def of_modes(noise: CorrelatedNoise, since: float, lag: float) -> float:
    """Covariance of the sum of the implemented modes."""
    return sum(v * math.exp(-r * lag) * -math.expm1(-2.0 * r * since) for r, v in noise.modes(T_READ))


def correlated(noise: CorrelatedNoise | None = None) -> PCM:
    """Devices with ``Q`` = 0.0088 at 25 µS and no other variation."""
    return replace(joshi_2020(), programming_sd=(0.0,), correlated_noise=noise or CorrelatedNoise())


def new(device: PCM, n: int = N) -> DeviceState:
    return device.program(torch.full((n,), 25e-6), SEED, 0)


def deviation(device: PCM, state: DeviceState, seconds: float) -> np.ndarray:
    """Deviation of a read in units of ``Q``."""
    ratio = device.read(state, at_age(seconds), SEED, 2).double() / device.drift(state, at_age(seconds)).double()
    return (ratio.numpy() - 1.0) / 0.0088


@pytest.mark.parametrize(("per_decade", "error"), [(1.0, 3e-3), (2.0, 2.5e-5), (4.0, 3e-6)])
def test_modes_add_up_to_the_variance_of_a_read(per_decade: float, error: float) -> None:
    """From the first read to ``longest``, and also with the fastest modes redrawn at each read."""
    for shortest in (0.0, 1e-3, 1.0):
        noise = CorrelatedNoise(modes_per_decade=per_decade, shortest=shortest)
        for since in np.geomspace(T0, noise.longest, 40):
            got = of_modes(noise, since, 0.0) + noise.fresh_variance(T_READ)
            assert abs(got / math.log(since / (2.0 * T_READ)) - 1.0) < error


def test_modes_add_up_to_the_covariance_of_two_reads() -> None:
    """Twelve decades of lag and seven of age, to the accuracy of two modes per decade."""
    for since in np.geomspace(T0, 3.2e8, 8):
        for lag in np.geomspace(1e-4, 1e8, 25):
            wanted = math.log1p(2.0 * since / lag)
            assert abs(of_modes(CorrelatedNoise(), since, lag) - wanted) < 1e-3, (since, lag)
            assert covariance(since, lag) == pytest.approx(wanted, abs=1e-9)


def test_reads_have_the_published_variance_at_every_age() -> None:
    device = correlated()
    state, now = new(device), 0.0
    for seconds in (0.0, 1e-6, 1.0, 60.0, 3600.0, 86_400.0, 3.15e7, 3e8):
        device.advance(state, now, seconds, SEED + int(seconds) + 1, 0)
        now = seconds
        seen = deviation(device, state, seconds)
        wanted = math.log((seconds + T0 + T_READ) / (2.0 * T_READ))
        assert abs(seen.mean()) < 5.0 * math.sqrt(wanted / N)
        assert abs(seen.var() / wanted - 1.0) < 5.0 * math.sqrt(2.0 / N)


def check_covariance(first: np.ndarray, second: np.ndarray, since: float, lag: float) -> None:
    """Covariance, and the difference of reads, which is more sensitive at short lags."""
    n = first.size
    v1, v2, c = covariance(since, 0.0), covariance(since + lag, 0.0), covariance(since, lag)
    assert abs((first * second).mean() - c) < 5.0 * math.sqrt((v1 * v2 + c * c) / n) + 1e-3
    difference = v1 + v2 - 2.0 * c
    assert abs(np.square(second - first).mean() / difference - 1.0) < 5.0 * math.sqrt(2.0 / n) + 1e-3


@pytest.mark.parametrize("start", [0.0, 1e5])
def test_autocovariance_over_ten_decades_of_lag(start: float) -> None:
    device = correlated()
    state = new(device)
    device.advance(state, 0.0, start, SEED + 1, 0)
    first, now = deviation(device, state, start), start
    for i, lag in enumerate(LAGS):
        device.advance(state, now, start + lag, SEED + 2 + i, 0)
        now = start + lag
        check_covariance(first, deviation(device, state, now), start + T0, lag)


@pytest.mark.parametrize(("n", "repeats", "between"), [(3, 60, 23_000), (50, 60, 2500), (1000, 10, 1000)])
def test_a_trace_has_the_same_autocovariance(n: int, repeats: int, between: int) -> None:
    """Few devices are scanned in blocks of time, many devices by read; the reads need more than one chunk."""
    device = correlated()
    others = torch.rand(between, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).mul(26).sub(14).exp()
    times = torch.cat((torch.tensor([0.0, *LAGS], dtype=torch.float64), others))
    times, order = times.sort()
    places = [int((order == i).nonzero()) for i in range(len(LAGS) + 1)]
    state = DeviceState(torch.full((n,), 25e-6), torch.zeros(n))
    runs = [trace(device, state, times, SEED + 10 + i)[places] for i in range(repeats)]
    seen = (torch.cat(runs, dim=1).double().numpy() / 25e-6 - 1.0) / 0.0088
    for i, lag in enumerate(LAGS):
        check_covariance(seen[0], seen[1 + i], T0, lag)


def test_each_mode_is_an_ornstein_uhlenbeck_process() -> None:
    """From 0: ``var(t) = v (1 - exp(-2 r t))`` and ``cov(t, t + dt) = var(t) exp(-r dt)``, mode by mode."""
    noise, n, t, dt = CorrelatedNoise(longest=10.0), 1_000_000, 0.3, 0.2
    state = torch.zeros(len(noise.modes(0.01)), n)
    noise.advance(state, t, 0.01, SEED, 0)
    first = state.clone()
    noise.advance(state, dt, 0.01, SEED + 1, 0)
    for (rate, variance), one, two in zip(noise.modes(0.01), first.double(), state.double(), strict=True):
        v1, v2 = (-variance * math.expm1(-2.0 * rate * s) for s in (t, t + dt))
        c = v1 * math.exp(-rate * dt)
        assert abs(one.square().mean().item() / v1 - 1.0) < 5.0 * math.sqrt(2.0 / n)
        assert abs(two.square().mean().item() / v2 - 1.0) < 5.0 * math.sqrt(2.0 / n)
        assert abs((one * two).mean().item() - c) < 5.0 * math.sqrt((v1 * v2 + c * c) / n)


def test_blocks_of_a_trace_form_one_process() -> None:
    """The scan equals the recursion over reads in float64 with the same draws."""
    rate, sd = torch.tensor([[1e3], [1.0], [1e-3], [1e-9]]), torch.tensor([[1.0], [0.5], [2.0], [1.0]])
    times = torch.rand(7 * 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).mul(18).sub(10).exp()
    times = times.sort().values.view(7, 40)
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    seen = _scan(x.float(), torch.tensor(1e-6, dtype=torch.float64), times, rate, sd, SEED, 5)
    drawn, now = torch.ops.phasegrad.normal(SEED, 5, [40, 4, 7, 3]).double(), 1e-6
    for block in range(7):
        for read in range(40):
            passed = rate.double() * (times[block, read] - now)
            x = x * torch.exp(-passed) + sd * (-torch.expm1(-2.0 * passed)).sqrt() * drawn[read, :, block]
            now = times[block, read]
            torch.testing.assert_close(seen[read, :, block].double(), x, rtol=2e-5, atol=2e-5)


def test_all_parts_of_a_trace_are_independent() -> None:
    """Differences of reads ten seconds apart are nearly white: they are uncorrelated with earlier draws."""
    device, n = correlated(), 200_000
    state = DeviceState(torch.full((1,), 25e-6), torch.zeros(1))
    seen = trace(device, state, torch.arange(n, dtype=torch.float64) * 10.0, SEED)
    spectrum = np.fft.rfft(seen[:, 0].diff().double().numpy(), 2 * n)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[: n // 2]
    assert np.abs(correlation[100:]).max() < 6.0 * correlation[0] / math.sqrt(n / 2)  # maximum of 100,000 lags


def test_a_trace_starts_at_the_age_of_the_first_read() -> None:
    device, n = correlated(), 400_000
    state = DeviceState(torch.full((n,), 25e-6), torch.zeros(n))
    seen = (trace(device, state, torch.zeros(1, dtype=torch.float64), SEED)[0].double() / 25e-6 - 1.0) / 0.0088
    assert abs(seen.var().item() / math.log(T0 / (2.0 * T_READ)) - 1.0) < 5.0 * math.sqrt(2.0 / n)


def test_reads_a_microsecond_apart_are_correlated_and_reads_a_day_apart_are_not() -> None:
    device = correlated()
    state = new(device)
    first = deviation(device, state, 0.0)
    device.advance(state, 0.0, 1e-6, SEED + 1, 0)
    soon = np.corrcoef(first, deviation(device, state, 1e-6))[0, 1]
    device.advance(state, 1e-6, 86_400.0, SEED + 2, 0)
    late = np.corrcoef(first, deviation(device, state, 86_400.0))[0, 1]
    assert soon == pytest.approx(covariance(T0, 1e-6) / covariance(T0, 0.0), abs=2e-3)  # the modes end at 1.8 us
    assert soon > 0.97
    assert abs(late) < 5.0 / math.sqrt(N) + 1e-3


def test_only_modes_faster_than_shortest_are_redrawn_at_each_read() -> None:
    """Two reads at one age share the slow modes: their covariance is the variance minus ``ln(r shortest)``."""
    shortest = 0.1
    device = correlated(CorrelatedNoise(shortest=shortest))
    state = new(device)
    ratios = [device.read(state, at_age(0.0), SEED + i, 2).double().numpy() / 25e-6 - 1.0 for i in range(2)]
    first, second = (r / 0.0088 for r in ratios)
    fresh = math.log(math.exp(-EULER) / (4.0 * T_READ) * shortest)
    v = math.log(T0 / (2.0 * T_READ))
    assert abs((first * second).mean() - (v - fresh)) < 5.0 * math.sqrt((v * v + (v - fresh) ** 2) / N)
    assert abs(np.square(first - second).mean() / (2.0 * fresh) - 1.0) < 5.0 * math.sqrt(2.0 / N)


SWITCHING = Telegraph(fraction=0.4, amplitude=0.2, rates=(1e-2, 1e2), duty=0.3)


def mean_decay(lag: float) -> float:
    """``mean(exp(-r lag))`` over log-uniform rates."""
    low, high = SWITCHING.rates
    return (exp1(low * lag) - exp1(high * lag)) / math.log(high / low)


def check_switching(first: np.ndarray, second: np.ndarray, lag: float) -> None:
    n, variance = first.size, 0.4 * 0.2**2 * 0.3 * 0.7
    product = first * second
    assert abs(product.mean() - variance * mean_decay(lag)) < 5.0 * product.std() / math.sqrt(n)
    assert abs(second.mean()) < 5.0 * math.sqrt(variance / n)
    assert abs(second.var() - variance) < 5.0 * np.square(second).std() / math.sqrt(n)


def test_telegraph_noise_has_its_autocovariance() -> None:
    device = replace(ideal_device(), telegraph=SWITCHING)
    state = device.program(torch.full((N,), 25e-6), SEED, 0)
    first, now = device.read(state, at_age(0.0), SEED, 2).double().numpy() / 25e-6 - 1.0, 0.0
    for i, lag in enumerate((1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)):
        device.advance(state, now, lag, SEED + 1 + i, 0)
        now = lag
        check_switching(first, device.read(state, at_age(lag), SEED, 2).double().numpy() / 25e-6 - 1.0, lag)


def test_a_trace_of_telegraph_noise_has_the_same_autocovariance() -> None:
    device = replace(ideal_device(), telegraph=SWITCHING)
    lags = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
    state = DeviceState(torch.full((N,), 25e-6), torch.zeros(N))
    seen = trace(device, state, torch.tensor([0.0, *lags], dtype=torch.float64), SEED).double().numpy() / 25e-6 - 1.0
    for i, lag in enumerate(lags):
        check_switching(seen[0], seen[1 + i], lag)


def test_switching_devices_have_two_levels_and_the_others_one() -> None:
    device = replace(ideal_device(), telegraph=SWITCHING)
    state = DeviceState(torch.full((1000,), 25e-6), torch.zeros(1000))
    seen = trace(device, state, torch.arange(2000, dtype=torch.float64), SEED) / 25e-6 - 1.0
    levels = [row.unique() for row in seen.t()]
    switching = [level for level in levels if len(level) == 2]
    torch.testing.assert_close(switching[0], torch.tensor([-0.06, 0.14]), rtol=0.0, atol=1e-6)
    assert all(len(level) == 1 or torch.equal(level, switching[0]) for level in levels)
    assert abs(sum(float(level.abs().sum()) > 1e-6 for level in levels) - 400) < 5.0 * math.sqrt(1000 * 0.4 * 0.6)
