"""Correlated noise: a million reads of one device, and the ageing of a million devices."""

from __future__ import annotations

from dataclasses import replace

import torch

from benchmarks.harness import Figure, median_time, side_by_side
from phasegrad.devices import CorrelatedNoise, Telegraph, joshi_2020, trace

READS = 1_000_000
DEVICES = 1_000_000


def figures() -> list[Figure]:
    """Measure traces of evenly and unevenly spaced reads, and ageing and reads against uncorrelated noise."""
    plain, seed = joshi_2020(), torch.tensor([0])
    device = replace(plain, correlated_noise=CorrelatedNoise())
    both = replace(device, telegraph=Telegraph(fraction=0.5, amplitude=0.05, rates=(1e-2, 1e4)))
    one = device.program(torch.tensor([12.5e-6]), seed, 0)
    even = torch.arange(READS, dtype=torch.float64) * 1e-6
    uneven = torch.logspace(-6, 7.5, READS, dtype=torch.float64)
    traces = {
        "trace of 1e6 reads, 1 us apart": lambda: trace(device, one, even, seed),
        "trace of 1e6 reads, log-spaced to a year": lambda: trace(device, one, uneven, seed),
        "trace of 1e6 reads with telegraph noise": lambda: trace(both, one, even, seed),
    }
    parts = [Figure(n, median_time(f, 5), "s", None, None, None, "at most 1") for n, f in traces.items()]
    target = torch.rand(DEVICES) * device.g_max
    state, day = device.program(target, seed, 0), torch.tensor(86_400.0, dtype=torch.float64)
    older = median_time(lambda: device.advance(state, 0.0, 86_400.0, seed, 0), 5)
    parts.append(Figure("age noise of 1M devices, 32 modes", older, "s", None, None, None, "-"))
    a, b, ratio = side_by_side(
        lambda: device.read(state, day, seed, 2), lambda: plain.read(state, day, seed, 2), rounds=15
    )
    return [*parts, Figure("read 1M devices", a * 1e3, "ms", "uncorrelated noise", b * 1e3, ratio, "at most 1.5x")]
