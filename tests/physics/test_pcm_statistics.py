"""Sampled devices against the published laws; a 5 % error in any coefficient is detected."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tests.physics.moments import raw_moments, z_scores
from tests.physics.pcm_law import (
    HERMES_ONE,
    HERMES_TWO,
    JOSHI_2020,
    PcmLaw,
    joshi_programming_sd,
    sandia_programming_sd,
)

from phasegrad.configuration import Configuration
from phasegrad.devices import PCM, DeviceState, hermes_one, hermes_two, joshi_2020

DEVICES: dict[str, tuple[PCM, PcmLaw]] = {
    "joshi_2020": (joshi_2020(), JOSHI_2020),
    "hermes_one": (hermes_one(), HERMES_ONE),
    "hermes_two": (hermes_two(), HERMES_TWO),
}
TARGETS = (0.004, 0.012, 0.05, 0.15, 0.3, 1.0)
AGES = (0.0, 1.0, 3600.0, 86_400.0, 2.6e6, 3.15e7)
N = 200_000
NU = 0.05  # exponent of the devices in read tests, so that reads do not depend on the draw of nu
BOUND = 5.0  # standard errors; about 1,000 checks, so that a correct device fails for one seed in 2,000
SEED = torch.tensor([2020])


def seed(g: float, seconds: float = 0.0) -> torch.Tensor:
    """A different seed for each check, so that the checks use independent normals."""
    return SEED + round(g * 1e6) + round(seconds * 1e3)


def age(seconds: float) -> torch.Tensor:
    return torch.tensor([seconds], dtype=torch.float64)


def microsiemens(conductance: torch.Tensor) -> np.ndarray:
    return conductance.double().numpy() * 1e6


@functools.lru_cache(maxsize=len(DEVICES) * len(TARGETS))
def program(device: PCM, law: PcmLaw, g: float, n: int = N) -> DeviceState:
    return device.program(torch.full((n,), g * law.g_max * 1e-6), seed(g), 0)


def programming_scores(device: PCM, law: PcmLaw, g: float, n: int = N) -> Iterator[float]:
    state = program(device, law, g, n)
    yield from z_scores(microsiemens(state.conductance), raw_moments(law.programmed(g)))
    yield from z_scores(state.nu.double().numpy(), raw_moments(law.nu(g)))


def drift_scores(device: PCM, law: PcmLaw, g: float, seconds: float) -> Iterator[float]:
    """Moments of the drifted conductance and of its loss, for independent programming error and nu."""
    state = program(device, law, g)
    left = raw_moments(lambda x: law.retention(law.nu(g)(x), seconds))
    drifted = microsiemens(device.drift(state, age(seconds)))
    yield from z_scores(drifted, raw_moments(law.programmed(g)) * left)
    if seconds > 0:
        held = state.conductance.numpy() > 0
        lost = 1.0 - drifted[held] / microsiemens(state.conductance)[held]
        yield from z_scores(lost, raw_moments(lambda x: law.loss(law.nu(g)(x), seconds)))


def read_scores(device: PCM, law: PcmLaw, g: float, seconds: float) -> Iterator[float]:
    state = DeviceState(torch.full((2 * N,), g * law.g_max * 1e-6), torch.full((2 * N,), NU))
    drifted = g * law.g_max * law.retention(np.float64(NU), seconds)
    sd = law.read_sd(np.float64(g), seconds)
    sample = microsiemens(device.read(state, age(seconds), seed(g, seconds), 2))
    yield from z_scores(sample, raw_moments(lambda x: drifted * np.maximum(1.0 + sd * x, 0.0)))


def all_scores(device: PCM, law: PcmLaw, path: str) -> Iterator[float]:
    """Scores that depend on a coefficient."""
    for g in TARGETS if path.endswith("high") or ".below." in path else reversed(TARGETS):
        if path.startswith(("programming_sd", "nu_", "g_max")):
            yield from programming_scores(device, law, g)
        if path.startswith(("read_noise", "g_max", "t_read")):
            yield from itertools.chain.from_iterable(read_scores(device, law, g, t) for t in AGES[2:4])
        if path.startswith("t0"):
            yield from itertools.chain.from_iterable(drift_scores(device, law, g, t) for t in AGES[1:3])


@pytest.mark.parametrize("g", TARGETS)
@pytest.mark.parametrize("name", DEVICES)
def test_programmed_conductance_and_nu_follow_the_law(name: str, g: float) -> None:
    assert max(map(abs, programming_scores(*DEVICES[name], g))) < BOUND


@pytest.mark.parametrize("seconds", AGES)
@pytest.mark.parametrize("name", DEVICES)
def test_drifted_conductance_follows_the_law(name: str, seconds: float) -> None:
    for g in TARGETS:
        assert max(map(abs, drift_scores(*DEVICES[name], g, seconds))) < BOUND, f"g = {g}"


@pytest.mark.parametrize("seconds", AGES)
@pytest.mark.parametrize("name", DEVICES)
def test_reads_follow_the_law(name: str, seconds: float) -> None:
    for g in TARGETS:
        assert max(map(abs, read_scores(*DEVICES[name], g, seconds))) < BOUND, f"g = {g}"


# The same law value by value, which finds deviations that sampling cannot resolve.

GRID = np.linspace(0.002, 1.0, 4001)
ROUNDING = 2e-6


def normals(offset: int) -> np.ndarray:
    return torch.ops.phasegrad.normal(SEED, offset, GRID.shape).double().numpy()


def largest_error(got: np.ndarray, wanted: np.ndarray, unit: np.ndarray | float) -> float:
    return float(np.max(np.abs(got - wanted) / unit))


def apart_from_thresholds(g: np.ndarray) -> np.ndarray:
    """A float32 conductance within rounding of a threshold may take either branch."""
    return np.all([np.abs(g - t) > 1e-6 for t in (0.0945, 0.3039, 0.3055, 0.1591, 0.16)], axis=0)


def errors_of_draws(device: PCM, law: PcmLaw) -> dict[str, float]:
    """Deviation of the device from the law applied to the same draws."""
    exact = torch.from_numpy(GRID * law.g_max * 1e-6).float()
    g = exact.double().numpy() * 1e6 / law.g_max
    apart = apart_from_thresholds(g)
    state = device.program(exact, SEED, 0)
    programmed = np.maximum(g * law.g_max + law.programming_sd(g) * normals(0), 0.0)
    nu = np.abs(law.nu_mean(g) + law.nu_sd(g) * normals(1))
    fixed = DeviceState(exact, torch.full_like(exact, NU))
    drifted = g * law.g_max * law.retention(np.float64(NU), 3600.0)
    sample = microsiemens(device.read(fixed, age(3600.0), SEED, 2))
    read = np.maximum(drifted * (1.0 + law.read_sd(g, 3600.0) * normals(2)), 0.0)
    return {
        "programmed": largest_error(microsiemens(state.conductance), programmed, law.g_max),
        "nu": largest_error(state.nu.double().numpy()[apart], nu[apart], 0.1),
        "drifted": largest_error(microsiemens(device.drift(fixed, age(3600.0))), drifted, drifted),
        "read": largest_error(sample[apart], read[apart], drifted[apart]),
    }


@pytest.mark.parametrize("name", DEVICES)
def test_draws_follow_the_law_to_rounding(name: str) -> None:
    errors = errors_of_draws(*DEVICES[name])
    assert max(errors.values()) < ROUNDING, errors


# The power of these tests: every coefficient in turn is 5 % off.


def off_by(value: Any, factor: float) -> Iterator[tuple[str, Any]]:
    """Paths of all numbers in a configuration or tuple, each with a copy in which that number is wrong."""
    if isinstance(value, Configuration):
        for field in dataclasses.fields(value):
            for path, part in off_by(getattr(value, field.name), factor):
                yield f"{field.name}.{path}".rstrip("."), dataclasses.replace(value, **{field.name: part})
    elif isinstance(value, tuple):
        for i, number in enumerate(value):
            for path, part in off_by(number, factor):
                yield f"{i}.{path}".rstrip("."), (*value[:i], part, *value[i + 1 :])
    elif isinstance(value, float) and value != 0.0 and math.isfinite(value):
        yield "", value * factor


MUTANTS = {f"{name}: {path}": (mutant, law) for name, (d, law) in DEVICES.items() for path, mutant in off_by(d, 1.05)}

# 5 % of these shows in no sample at TARGETS: the read time changes a spread by 0.14 %; no target lies between a
# threshold and 1.05 of it; and the floor of HERMES' mean nu is reached only between 0.089 and 0.0945.
SILENT = {f"{name}: t_read" for name in DEVICES} | {
    f"{name}: {path}"
    for name in ("hermes_one", "hermes_two")
    for path in ("nu_mean.threshold", "nu_mean.below.low", "nu_sd.threshold", "read_noise.threshold")
}


def test_every_coefficient_has_its_turn() -> None:
    # joshi: g_max, t0, t_read, 3 of programming, 4 and 4 of nu, 3 of Q; HERMES: 3, 4, 8 and 8 of nu, 9 of Q.
    counts = {name: sum(m.startswith(name) for m in MUTANTS) for name in DEVICES}
    assert counts == {"joshi_2020": 17, "hermes_one": 32, "hermes_two": 32}
    assert SILENT < set(MUTANTS)


# 5 % of this one changes the spread of nu by 0.6 % at most, which takes more devices than the others.
FAINT = "hermes_one: nu_sd.below.polynomial.0"


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m not in SILENT | {FAINT}])
def test_samples_show_a_coefficient_that_is_off(mutant: str) -> None:
    path = mutant.split(": ")[1]
    assert any(abs(z) > BOUND for z in all_scores(*MUTANTS[mutant], path))


def test_samples_show_the_faintest_coefficient_that_is_off() -> None:
    g, n = 0.15, 8 * N
    assert max(map(abs, programming_scores(*DEVICES["hermes_one"], g, n))) < BOUND
    assert max(map(abs, programming_scores(*MUTANTS[FAINT], g, n))) > BOUND


@pytest.mark.parametrize("mutant", MUTANTS)
def test_draws_show_a_coefficient_that_is_off(mutant: str) -> None:
    assert max(errors_of_draws(*MUTANTS[mutant]).values()) > 100.0 * ROUNDING


# Errors of existing simulators.


@pytest.mark.parametrize("name", DEVICES)
def test_nu_follows_the_target_and_not_what_was_programmed(name: str) -> None:
    device, law = DEVICES[name]
    g = 0.05
    state = program(device, law, g)
    programmed = microsiemens(state.conductance) / law.g_max
    noise = (state.nu.double().numpy() - law.nu_mean(np.float64(g))) / law.nu_sd(np.float64(g))
    wrong = law.nu_mean(np.maximum(programmed, 1e-3)) / law.nu_sd(np.float64(g)) + noise
    assert abs(np.corrcoef(programmed, noise)[0, 1]) < BOUND / math.sqrt(N)
    assert abs(np.corrcoef(programmed, wrong)[0, 1]) > 10 * BOUND / math.sqrt(N)


@pytest.mark.parametrize("name", DEVICES)
def test_read_noise_follows_what_was_programmed_and_not_what_drift_left(name: str) -> None:
    device, law = DEVICES[name]
    g, nu, seconds = 0.1, 0.1, 3.15e7
    state = DeviceState(torch.full((N,), g * law.g_max * 1e-6), torch.full((N,), nu))
    left = law.retention(np.float64(nu), seconds)
    sample = microsiemens(device.read(state, age(seconds), SEED, 2)) / (g * law.g_max * left)

    def scores(conductance: float) -> list[float]:
        sd = law.read_sd(np.float64(conductance), seconds)
        return [abs(z) for z in z_scores(sample, raw_moments(lambda x: np.maximum(1.0 + sd * x, 0.0)))]

    assert max(scores(g)) < BOUND
    assert max(scores(g * left)) > 10 * BOUND


@pytest.mark.parametrize(("other", "offset"), [(SEED, 3), (SEED + 1, 2)], ids=["another stream", "another seed"])
def test_two_reads_of_a_device_are_independent(other: torch.Tensor, offset: int) -> None:
    device, law = DEVICES["joshi_2020"]
    state = DeviceState(torch.full((N,), 12.5e-6), torch.full((N,), NU))
    first = microsiemens(device.read(state, age(3600.0), SEED, 2))
    second = microsiemens(device.read(state, age(3600.0), other, offset))
    assert abs(np.corrcoef(first, second)[0, 1]) < BOUND / math.sqrt(N)
    sd = 12.5 * law.retention(np.float64(NU), 3600.0) * law.read_sd(np.float64(0.5), 3600.0)
    assert np.std(first - second) == pytest.approx(math.sqrt(2.0) * sd, rel=BOUND / math.sqrt(2 * N))


def test_drift_is_drawn_once_and_reads_go_on_from_the_same_devices() -> None:
    device, law = DEVICES["joshi_2020"]
    state = program(device, law, 0.3, 1000)
    ratio = device.drift(state, age(AGES[5])).double() / device.drift(state, age(AGES[3])).double()
    wanted = law.retention(state.nu.double().numpy(), AGES[5]) / law.retention(state.nu.double().numpy(), AGES[3])
    assert largest_error(ratio.numpy(), wanted, wanted) < 2e-6


def test_programming_spread_agrees_with_an_independent_fit() -> None:
    conductance = np.linspace(0.0, 25.0, 101)
    device = joshi_2020()
    spread = np.polynomial.polynomial.polyval(conductance / 25.0, device.programming_sd) * 1e6
    assert np.max(np.abs(spread - sandia_programming_sd(conductance))) < 0.023
    backwards = np.polynomial.polynomial.polyval(conductance / 25.0, device.programming_sd[::-1]) * 1e6
    assert np.max(np.abs(backwards - sandia_programming_sd(conductance))) > 1.0
    assert np.allclose(spread, joshi_programming_sd(conductance / 25.0), rtol=1e-12)


def test_programming_spread_scales_with_the_range() -> None:
    assert joshi_2020(g_max=5e-6).programming_sd == pytest.approx([c / 5.0 for c in joshi_2020().programming_sd])
