from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.physics.moments import central, raw_moments
from tests.physics.pcm_law import HERMES_ONE, HERMES_TWO, JOSHI_2020, PcmLaw

from phasegrad.devices import PCM, Curve, Power, Table, hermes_one, hermes_two, ideal_device, joshi_2020
from phasegrad.testing import SEED, DeviceContract, at_age


class PcmContract(DeviceContract):
    law: PcmLaw

    def spread(self, function: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
        mean, variance, _ = central(raw_moments(function))
        return mean, math.sqrt(max(variance, 0.0))

    def programmed(self, g: float) -> tuple[float, float]:
        mean, sd = self.spread(self.law.programmed(g))
        return mean * 1e-6, sd * 1e-6

    def retained(self, g: float, seconds: float) -> tuple[float, float]:
        return self.spread(lambda x: self.law.retention(self.law.nu(g)(x), seconds))

    def read_sd(self, g: float, seconds: float) -> float:
        return float(self.law.read_sd(np.float64(g), seconds))


class TestJoshi2020(PcmContract):
    law = JOSHI_2020

    def configuration(self) -> PCM:
        return joshi_2020()


class TestHermesOne(PcmContract):
    law = HERMES_ONE

    def configuration(self) -> PCM:
        return hermes_one()


class TestHermesTwo(PcmContract):
    law = HERMES_TWO

    def configuration(self) -> PCM:
        return hermes_two()


class TestIdealDevice(DeviceContract):
    def configuration(self) -> PCM:
        return ideal_device(g_max=10e-6)

    def programmed(self, g: float) -> tuple[float, float]:
        return g * 10e-6, 0.0

    def retained(self, g: float, seconds: float) -> tuple[float, float]:
        return 1.0, 0.0

    def read_sd(self, g: float, seconds: float) -> float:
        return 0.0


class TestOwnDevice(PcmContract):
    """A device measured at a few conductances."""

    points = np.array([0.0, 0.4, 1.0])
    law = PcmLaw(
        g_max=20.0,
        t0=30.0,
        t_read=1e-6,
        programming_sd=lambda g: 0.3 + 0.8 * g,
        nu_mean=lambda g: np.interp(g, [0.0, 0.4, 1.0], [0.1, 0.06, 0.04]),
        nu_sd=lambda g: np.full_like(g, 0.01),
        q=lambda g: np.interp(g, [0.0, 0.4, 1.0], [0.05, 0.02, 0.01]),
    )

    def configuration(self) -> PCM:
        return PCM(
            g_max=20e-6,
            t0=30.0,
            t_read=1e-6,
            programming_sd=(0.3e-6, 0.8e-6),
            nu_mean=Table(g=(0.0, 0.4, 1.0), value=(0.1, 0.06, 0.04)),
            nu_sd=Table(g=(0.0,), value=(0.01,)),
            read_noise=Table(g=(0.0, 0.4, 1.0), value=(0.05, 0.02, 0.01)),
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"g_max": 0.0}, r"PCM: g_max = 0.0; it must be a number in \(0, inf\)"),
        ({"g_max": math.nan}, "g_max = nan"),
        ({"g_max": "25e-6"}, "g_max = '25e-6'"),
        ({"t0": -1.0}, "t0 = -1.0"),
        ({"t0": math.inf}, "t0 = inf"),
        ({"t_read": 0.0}, "t_read = 0.0"),
        ({"t_read": True}, "t_read = True"),
        # The logarithm in the law is negative at the first read.
        ({"t_read": 30.0}, "t_read = 30.0"),
        ({"programming_sd": ()}, r"programming_sd = \(\); it must contain one or more finite numbers"),
        ({"programming_sd": (1e-6, math.nan)}, r"programming_sd = \(1e-06, nan\)"),
    ],
)
def test_a_wrong_number_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(joshi_2020(), **change)


@pytest.mark.parametrize("field", ["nu_mean", "nu_sd", "read_noise"])
def test_what_is_no_law_is_refused(field: str) -> None:
    with pytest.raises(TypeError, match=rf"PCM: {field} = 0.05 \(float\); it must be Law"):
        dataclasses.replace(joshi_2020(), **{field: 0.05})


def test_only_read_noise_may_be_absent() -> None:
    assert dataclasses.replace(joshi_2020(), read_noise=None).reads_are_noisy is False
    with pytest.raises(TypeError, match="nu_mean = None"):
        dataclasses.replace(joshi_2020(), nu_mean=None)


def test_drift_draws_nothing() -> None:
    device = dataclasses.replace(joshi_2020(), read_noise=Power(factor=0.2, exponent=0.0))
    state = device.program(torch.full((100,), 10e-6), SEED, 0)
    quiet = dataclasses.replace(device, read_noise=None).read(state, at_age(60.0), SEED, 2)
    assert torch.equal(device.drift(state, at_age(60.0)), quiet)


def test_programming_draws_two_streams() -> None:
    device = joshi_2020()
    target = torch.full((1000,), 12.5e-6)
    nu = device.program(target, SEED, 5).nu
    z = torch.ops.phasegrad.normal(SEED, 6, [1000])
    wanted = (device.nu_mean(torch.tensor(0.5)) + device.nu_sd(torch.tensor(0.5)) * z).abs()
    torch.testing.assert_close(nu, wanted, rtol=1e-6, atol=1e-8)


def test_a_device_of_no_drift_and_no_spread_stays() -> None:
    device = PCM(
        g_max=1e-6, t0=1.0, t_read=1e-6, programming_sd=(0.0,), nu_mean=Curve(), nu_sd=Curve(), read_noise=None
    )
    target = torch.rand(100, generator=torch.Generator().manual_seed(0)) * 1e-6
    state = device.program(target, SEED, 0)
    assert torch.equal(device.drift(state, at_age(1e9)), target)
