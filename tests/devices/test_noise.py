from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from tests.contracts.op import same_bits
from tests.devices.test_pcm import PcmContract
from tests.physics.pcm_law import JOSHI_2020

from phasegrad.devices import (
    PCM,
    CorrelatedNoise,
    Curve,
    Device,
    DeviceState,
    Telegraph,
    ideal_device,
    joshi_2020,
    trace,
)
from phasegrad.testing import SEED, ConfigurationContract, DeviceContract, at_age

TELEGRAPH = Telegraph(fraction=0.5, amplitude=0.1, rates=(1e-3, 1e3))


class RemembersContract(DeviceContract):
    repeats: ClassVar[bool] = True

    def at_conductance(self, device: Device, g: float, seconds: float) -> DeviceState:
        assert isinstance(device, PCM)
        exact = dataclasses.replace(device, programming_sd=(0.0,))
        state = exact.program(self.level(device, g), SEED, 0)
        device.advance(state, 0.0, seconds / 2, SEED + 1, 0)
        device.advance(state, seconds / 2, seconds, SEED + 2, 0)
        return state

    def test_no_time_changes_nothing(self, device: Device) -> None:
        state = device.program(self.targets(device, 100), SEED, 0)
        assert state.noise is not None
        before = state.noise.clone()
        device.advance(state, 60.0, 60.0, SEED, 0)
        assert same_bits(state.noise, before)

    def test_noise_has_as_many_planes_as_it_says(self, device: Device) -> None:
        state = device.program(self.targets(device, 3, 5), SEED, 0)
        assert state.noise is not None
        assert state.noise.shape == (device.planes, 3, 5)
        assert device.stateful_fields

    @pytest.mark.parametrize("shape", [(1001,), (7, 31, 33)], ids=str)
    def test_bits_do_not_depend_on_threads(self, device: Device, shape: tuple[int, ...]) -> None:
        def reads() -> list[torch.Tensor]:
            state = device.program(self.targets(device, *shape), SEED, 0)
            device.advance(state, 0.0, 1e3, SEED, 0)
            times = torch.tensor([0.0, 1e-6, 0.3, 0.3, 1e4], dtype=torch.float64)
            return [device.read(state, at_age(1e3), SEED, 2), trace(device, state, times, SEED)]

        many = torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            one = reads()
            torch.set_num_threads(3)
            assert same_bits(reads(), one)
        finally:
            torch.set_num_threads(many)

    def test_a_state_that_forgot_its_noise_is_refused(self, device: Device) -> None:
        state = device.program(self.targets(device, 4), SEED, 0)
        with pytest.raises(
            ValueError, match="noise = None in the state of a device with correlated_noise or telegraph"
        ):
            device.read(DeviceState(state.conductance, state.nu), at_age(0.0), SEED, 0)


class TestRemembers(RemembersContract, PcmContract):
    law = JOSHI_2020

    def configuration(self) -> PCM:
        return dataclasses.replace(joshi_2020(), correlated_noise=CorrelatedNoise())


class TestRemembersFromAWhileOn(RemembersContract, PcmContract):
    law = JOSHI_2020
    repeats: ClassVar[bool] = False

    def configuration(self) -> PCM:
        return dataclasses.replace(joshi_2020(), correlated_noise=CorrelatedNoise(shortest=0.1))


class TestSwitches(RemembersContract):
    def configuration(self) -> PCM:
        return dataclasses.replace(ideal_device(), telegraph=TELEGRAPH)

    def programmed(self, g: float) -> tuple[float, float]:
        return g * 25e-6, 0.0

    def retained(self, g: float, seconds: float) -> tuple[float, float]:
        return 1.0, 0.0

    def read_sd(self, g: float, seconds: float) -> float:
        return 0.1 * math.sqrt(0.5 * 0.5 * 0.5)


class TestSwitchesBesideNoiseWithoutMemory(RemembersContract, PcmContract):
    """The two noises are independent, so that their variances add."""

    law = JOSHI_2020
    repeats: ClassVar[bool] = False

    def configuration(self) -> PCM:
        return dataclasses.replace(joshi_2020(), telegraph=TELEGRAPH)

    def read_sd(self, g: float, seconds: float) -> float:
        return math.sqrt(float(JOSHI_2020.read_sd(np.float64(g), seconds)) ** 2 + 0.01 / 8)


class TestSwitchesBesideMemory(TestSwitchesBesideNoiseWithoutMemory):
    repeats: ClassVar[bool] = True

    def configuration(self) -> PCM:
        return dataclasses.replace(joshi_2020(), correlated_noise=CorrelatedNoise(), telegraph=TELEGRAPH)


class TestCorrelatedNoise(ConfigurationContract):
    def configuration(self) -> CorrelatedNoise:
        return CorrelatedNoise(shortest=1e-3, longest=1e6)


class TestTelegraph(ConfigurationContract):
    def configuration(self) -> Telegraph:
        return TELEGRAPH


def test_a_constant_part_of_read_noise_comes_on_top() -> None:
    """``read_sd`` is redrawn at each read, in addition to correlated noise."""
    quiet = dataclasses.replace(joshi_2020(), correlated_noise=CorrelatedNoise(), programming_sd=(0.0,))
    noisy = dataclasses.replace(quiet, read_sd=(0.2e-6,))
    state = quiet.program(torch.full((100_000,), 20e-6), SEED, 0)
    more = (noisy.read(state, at_age(0.0), SEED, 2) - quiet.read(state, at_age(0.0), SEED, 2)).double()
    assert abs(more.std().item() / 0.2e-6 - 1.0) < 5.0 / math.sqrt(2e5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CorrelatedNoise(modes_per_decade=0), r"modes_per_decade = 0; it must be a number in \[0.5, 20\]"),
        (lambda: CorrelatedNoise(shortest=-1.0), r"shortest = -1.0; it must be a number in \[0, inf\)"),
        (lambda: CorrelatedNoise(longest=math.inf), "longest = inf"),
        (
            lambda: CorrelatedNoise(shortest=1.0, longest=5.0),
            "longest = 5.0 s with shortest = 1.0 s; longest must be at least 10 shortest",
        ),
        (lambda: dataclasses.replace(TELEGRAPH, fraction=1.1), r"fraction = 1.1; it must be a number in \[0, 1\]"),
        (lambda: dataclasses.replace(TELEGRAPH, amplitude=-0.1), "amplitude = -0.1"),
        (lambda: dataclasses.replace(TELEGRAPH, duty=2.0), "duty = 2.0"),
        (
            lambda: dataclasses.replace(TELEGRAPH, rates=(1e3, 1e-3)),
            r"rates = \(1000.0, 0.001\); give .lowest, highest.",
        ),
        (lambda: dataclasses.replace(TELEGRAPH, rates=(0.0, 1.0)), r"rates = \(0.0, 1.0\)"),
        (lambda: dataclasses.replace(TELEGRAPH, rates=(1.0,)), r"rates = \(1.0,\)"),
        (lambda: dataclasses.replace(TELEGRAPH, rates=1.0), r"rates = 1.0; give .lowest, highest."),
        (
            lambda: dataclasses.replace(joshi_2020(), read_noise=None, correlated_noise=CorrelatedNoise()),
            "with read_noise = None; give read_noise, the law",
        ),
        (
            lambda: dataclasses.replace(joshi_2020(), correlated_noise=CorrelatedNoise(shortest=3.0)),
            "with a first read 20.0 s after programming; it must be at least 10 shortest",
        ),
        (
            lambda: dataclasses.replace(joshi_2020(), correlated_noise=CorrelatedNoise(longest=1.0)),
            "and at most longest",
        ),
    ],
)
def test_a_wrong_number_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("field", ["correlated_noise", "telegraph", "thermal"])
def test_what_is_something_else_is_refused(field: str) -> None:
    with pytest.raises(TypeError, match=rf"PCM: {field} = Curve\(.* \(Curve\); it must be "):
        dataclasses.replace(joshi_2020(), **{field: Curve()})


@pytest.mark.parametrize(
    ("ages", "message"),
    [
        (torch.tensor([0.0, 1.0]), r"ages has shape \[2\] and dtype torch.float32; give a float64 tensor \[reads\]"),
        (torch.zeros(2, 2, dtype=torch.float64), r"ages has shape \[2, 2\]"),
        (
            torch.tensor([1.0, 0.5], dtype=torch.float64),
            "ages must be finite, at least 0 s, and in increasing order; sort them",
        ),
        (torch.tensor([-1.0], dtype=torch.float64), "at least 0 s"),
        (torch.tensor([math.nan], dtype=torch.float64), "finite"),
    ],
)
def test_impossible_ages_of_a_trace_are_refused(ages: torch.Tensor, message: str) -> None:
    device = joshi_2020()
    state = device.program(torch.full((1,), 1e-5), SEED, 0)
    with pytest.raises(ValueError, match=message):
        trace(device, state, ages, SEED)


def test_ages_of_a_trace_are_a_tensor() -> None:
    device = joshi_2020()
    state = device.program(torch.full((1,), 1e-5), SEED, 0)
    with pytest.raises(TypeError, match="trace: ages has type list; give a float64 tensor"):
        trace(device, state, [0.0, 1.0], SEED)  # type: ignore[arg-type]


@pytest.mark.parametrize("reads", [0, 1, 2, 300, 70_000])
def test_a_trace_has_a_row_for_each_read(reads: int) -> None:
    device = dataclasses.replace(joshi_2020(), correlated_noise=CorrelatedNoise(), telegraph=TELEGRAPH)
    state = device.program(torch.full((2, 3), 1e-5), SEED, 0)
    times = torch.arange(reads, dtype=torch.float64)
    seen = trace(device, state, times, SEED)
    assert seen.shape == (reads, 2, 3)
    assert torch.isfinite(seen).all()


def test_a_trace_of_noise_without_memory_draws_each_read() -> None:
    device = joshi_2020()
    state = device.program(torch.full((1,), 20e-6), SEED, 0)
    times = torch.zeros(100_000, dtype=torch.float64)
    seen = trace(device, state, times, SEED).double() / state.conductance - 1.0
    wanted = float(JOSHI_2020.read_sd(state.conductance.double().numpy()[0] / 25e-6, 0.0))
    assert abs(seen.std().item() / wanted - 1.0) < 5.0 / math.sqrt(2e5)
