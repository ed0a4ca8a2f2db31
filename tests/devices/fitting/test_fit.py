"""PHYSICS: coefficients of simulated devices are found again, and laws are told apart."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import phasegrad as pg
from phasegrad.devices.fitting.step_panels import simulated_trains

JOSHI = pg.devices.joshi_2020()
NANDAKUMAR = pg.devices.nandakumar_2018()


def reads(device: pg.devices.PCM, each: int = 25, count: int = 8) -> dict[str, Tensor]:
    """Devices at 6 targets from 2 to 25 uS, read from 20 s to a day after programming."""
    target = torch.logspace(math.log10(2e-6), math.log10(25e-6), 6).repeat_interleave(each)
    key = torch.tensor([3])
    ages = torch.cat((torch.zeros(1), torch.logspace(1.0, 5.0, count - 1))).double()
    seen = pg.devices.trace(device, device.program(target, key, 0), ages, key, 100)
    number = torch.arange(len(target)).repeat_interleave(count)
    times = (ages + device.t0).repeat(len(target))
    return {
        "device": number,
        "time": times,
        "target": target.repeat_interleave(count),
        "conductance": seen.t().flatten(),
    }


def trains(steps: pg.devices.Steps, first: float, signs: tuple[int, ...], g_max: float = 20e-6) -> dict[str, Tensor]:
    """A thousand simulated trains, of which 60 are measured."""
    device = pg.devices.ideal_device(g_max=g_max, steps=steps)
    start = torch.full((1000,), first, dtype=torch.float64)
    seen = simulated_trains(device, start, torch.tensor(signs), -1 in signs)[:60]
    return table(seen, signs)


def table(seen: Tensor, signs: tuple[int, ...]) -> dict[str, Tensor]:
    devices, count = seen.shape
    return {
        "device": torch.arange(devices).repeat_interleave(count),
        "pulse": torch.arange(count).repeat(devices),
        "direction": torch.tensor([1, *signs]).repeat(devices),
        "conductance": seen.flatten().double(),
    }


def assert_found(fit: pg.devices.Fit, truth: dict[str, float]) -> None:
    """Within twice the 95 % interval, which a coefficient that is right leaves once in 10,000 tests."""
    for name, value in truth.items():
        found = fit.coefficients[name]
        low, high = (found.value + 2.0 * (end - found.value) for end in (found.low, found.high))
        assert low <= value <= high, f"{name} = {value}: {found}"


DRIFT = {
    "read_noise.factor": 0.0088, "read_noise.exponent": -0.65, "nu_mean.low": 0.049, "nu_sd.low": 0.008,
    "programming_sd.0": 0.26348e-6, "programming_sd.1": 1.9650e-6, "programming_sd.2": -1.1731e-6,
}  # fmt: skip
FORMS = {"nu_mean": "clipped logarithm", "nu_sd": "clipped logarithm", "programming_sd": "degree 2"}


@pytest.mark.parametrize("correlated", [False, True])
def test_reads_over_time_give_programming_drift_and_noise(correlated: bool) -> None:
    device = replace(JOSHI, correlated_noise=pg.devices.CorrelatedNoise()) if correlated else JOSHI
    fit = pg.devices.fit(reads(device), FORMS, g_max=25e-6, resamples=300)
    assert_found(fit, DRIFT)
    assert (fit.device.correlated_noise is not None) == correlated
    assert fit.device.t0 == pytest.approx(20.0)


def test_the_spread_of_exponents_does_not_contain_the_noise_of_reads() -> None:
    """At 2 uS, noise of 24 % gives single exponents an error of 0.03, as large as their spread of 0.026."""
    device = replace(JOSHI, nu_mean=pg.devices.Curve(polynomial=(0.06,)), nu_sd=pg.devices.Curve(polynomial=(0.01,)))
    fit = pg.devices.fit(reads(device), g_max=25e-6, resamples=300)
    assert {a.part: a.name for a in fit.alternatives if a.chosen}["nu_sd"] == "constant"
    assert_found(fit, {"nu_mean.constant": 0.06, "nu_sd.constant": 0.01})


def test_targets_give_the_programming_error_of_devices_that_were_clipped_at_zero() -> None:
    target = torch.linspace(0.0, 25e-6, 10).repeat_interleave(200)
    state = JOSHI.program(target, torch.tensor([4]), 0)
    columns = {"device": torch.arange(2000), "target": target, "conductance": state.conductance}
    fit = pg.devices.fit(columns, g_max=25e-6, resamples=300)
    assert_found(fit, {name: value for name, value in DRIFT.items() if name.startswith("programming")})
    assert fit.device.programming_sd == pytest.approx(
        tuple(fit.coefficients[f"programming_sd.{k}"].value for k in range(3))
    )


def test_set_pulses_are_told_from_other_laws() -> None:
    fit = pg.devices.fit(trains(NANDAKUMAR, 0.1e-6, (1,) * 15), resamples=300)
    assert [a.name for a in fit.alternatives if a.chosen] == ["set pulses"]
    truth = {"m_G": -0.084, "m_0": 0.88e-6, "m_P": 1.4e-6, "history_length": 2.6, "s_0": 0.26e-6, "s_P": 2.15e-6}
    assert_found(fit, truth)


D = pg.devices
VARIED = {"c2c": 0.3, "d2d": 0.2}


@pytest.mark.parametrize(
    ("law", "steps", "signs", "truth"),
    [
        ("constant", D.ConstantSteps(size=1e-6, **VARIED), (1,) * 10, {"size": 1e-6}),
        ("soft bounds", D.SoftBoundsSteps(size=2e-6, from_zero=True, **VARIED), (1,) * 12, {"size": 2e-6}),
        (
            "linear", D.LinearSteps(size=1e-6, slope_up=0.5, slope_down=0.3, **VARIED), (1,) * 8 + (-1,) * 6,
            {"size": 1e-6, "slope_up": 0.5, "slope_down": 0.3},
        ),
        ("power", D.PowerSteps(size=2e-6, gamma_up=2.0, gamma_down=2.0, **VARIED), (1,) * 12, {"gamma_up": 2.0}),
        (
            "exponential", D.ExponentialSteps(size=2e-6, a_up=0.2, gamma_up=1.5, scale=1.0, shift=0.0, **VARIED),
            (1,) * 16, {"size": 2e-6, "a_up": 0.2, "gamma_up": 1.5},
        ),
    ],
)  # fmt: skip
def test_step_families_are_found(law: str, steps: D.Steps, signs: tuple[int, ...], truth: dict[str, float]) -> None:
    fit = pg.devices.fit(trains(steps, 1e-6, signs), law, g_max=20e-6, resamples=300)
    assert_found(fit, {**truth, **VARIED})
    assert type(fit.device.steps) is type(steps)


def test_piecewise_steps_and_jump_tables_follow_the_measured_steps() -> None:
    """The mean step of 60 trains of 16 pulses has an error of 30 % / sqrt(100) at each point."""
    steps = D.PiecewiseSteps(size=2e-6, up=(1.0, 0.9, 0.6, 0.5, 0.4), down=(1.0, 0.9, 0.6, 0.5, 0.4), **VARIED)
    data = trains(steps, 0.1e-6, (1,) * 16)
    found = pg.devices.fit(data, "piecewise", g_max=20e-6, resamples=300)
    assert_found(found, {"up.0": 2.0e-6, "up.1": 1.8e-6, "up.2": 1.2e-6})
    jumps = pg.devices.fit(data, "jump table", g_max=20e-6)
    assert jumps.coefficients == {}
    assert jumps.device.steps.up[0][len(jumps.device.steps.up[0]) // 2] * jumps.device.steps.size == pytest.approx(
        2.0e-6, rel=0.1
    )


def test_noise_of_reads_is_taken_out_of_steps_or_warned_of() -> None:
    """Steps of 1 uS with 10 % of noise, read with 0.3 uS: without ``read_sd`` they seem to vary by 44 %."""
    data = trains(D.ConstantSteps(size=1e-6, c2c=0.1), 1e-6, (1,) * 10)
    noise = 0.3e-6 * torch.randn(len(data["pulse"]), generator=torch.Generator().manual_seed(0))
    data["conductance"] = (data["conductance"] + noise).clamp(min=0.0)
    with pytest.warns(UserWarning, match="as noise of reads causes; .* pass read_sd"):
        plain = pg.devices.fit(data, "constant", g_max=20e-6, resamples=300)
    assert plain.coefficients["c2c"].value == pytest.approx(0.44, rel=0.1)
    assert_found(pg.devices.fit(data, "constant", g_max=20e-6, read_sd=(0.3e-6,), resamples=300), {"c2c": 0.1})


def test_fits_of_several_files_add_up_and_are_drawn_and_pickled(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    first = pg.devices.fit(reads(JOSHI, each=20), {"nu_sd": "constant"}, resamples=100)
    pulses = trains(D.ConstantSteps(size=1e-6, c2c=0.3), 1e-6, (1,) * 10)
    both = pg.devices.fit(pulses, "constant", base=first.device, g_max=20e-6, resamples=100)
    assert both.device.nu_mean == first.device.nu_mean
    assert both.device.steps is not None
    for name, fit in (("reads", first), ("pulses", both)):
        fit.plot(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
        assert str(pickle.loads(pickle.dumps(fit))) == str(fit)
    assert "nu_mean" in str(first)


def test_a_seed_gives_the_same_intervals() -> None:
    data = trains(D.ConstantSteps(size=1e-6, c2c=0.3), 1e-6, (1,) * 10)
    fits = [pg.devices.fit(data, "constant", g_max=20e-6, resamples=200, seed=seed) for seed in (0, 0, 1)]
    assert fits[0].coefficients == fits[1].coefficients
    assert fits[0].coefficients != fits[2].coefficients
