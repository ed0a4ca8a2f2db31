"""What every memory device must satisfy; a test class inherits it and supplies the device and its law."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from tests.contracts.configuration import ConfigurationContract
from tests.contracts.op import same_bits
from torch import Tensor

from phasegrad.devices import Device, DeviceState

SEED = torch.tensor([7])
N = 100_000
BOUND = 5.0


def age(seconds: float) -> Tensor:
    return torch.tensor([seconds], dtype=torch.float64)


def standard_errors(sample: Tensor, mean: float, sd: float) -> float:
    """How far the sample's mean lies from the law's."""
    sample = sample.double()
    if sd == 0.0:
        return float((sample / mean - 1.0).abs().max() / 1e-6) if mean else float(sample.abs().max())
    return abs(sample.mean().item() - mean) * math.sqrt(sample.numel()) / sd


def tensors(state: DeviceState) -> list[Tensor]:
    """What a state has."""
    return [t for t in state if t is not None]


class DeviceContract(ConfigurationContract):
    ages: ClassVar[tuple[float, ...]] = (0.0, 1.0, 3600.0, 3.15e7)
    repeats: ClassVar[bool] = False
    """Whether reads at one age find the same."""

    def configuration(self) -> Device:
        raise NotImplementedError

    def programmed(self, g: float) -> tuple[float, float]:
        """The law: mean and standard deviation of the conductance [S] after programming to ``g g_max``."""
        raise NotImplementedError

    def retained(self, g: float, seconds: float) -> tuple[float, float]:
        """The law: mean and standard deviation of what drift leaves of a conductance, as a fraction."""
        raise NotImplementedError

    def read_sd(self, g: float, seconds: float) -> float:
        """The law: spread of a read of a device that holds ``g g_max``, over its drifted conductance."""
        raise NotImplementedError

    def held(self, device: Device, g: float, seconds: float) -> DeviceState:
        """Devices that hold ``g g_max`` exactly, as they are at an age."""
        return DeviceState(self.level(device, g), torch.full((N,), 0.03))

    @pytest.fixture
    def device(self) -> Device:
        return self.configuration()

    def targets(self, device: Device, *shape: int) -> Tensor:
        return device.g_max * torch.rand(shape, generator=torch.Generator().manual_seed(0))

    def level(self, device: Device, g: float, n: int = N) -> Tensor:
        return torch.full((n,), g * device.g_max)

    @pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 4, 5), (2, 1000)], ids=str)
    def test_state_has_the_shape_of_the_target(self, device: Device, shape: tuple[int, ...]) -> None:
        target = self.targets(device, *shape)
        state = device.program(target, SEED, 0)
        seen = device.read(state, age(60.0), SEED, 2)
        for t in (*state[:2], seen, device.drift(state, age(60.0))):
            assert (t.shape, t.dtype) == (target.shape, torch.float32)

    def test_nothing_is_negative_or_no_number(self, device: Device) -> None:
        state = device.program(self.targets(device, 20_000) * 0.1, SEED, 0)
        for seconds in self.ages:
            for t in (*state[:2], device.read(state, age(seconds), SEED, 2), device.drift(state, age(seconds))):
                assert (t >= 0.0).all()
                assert t.isfinite().all()

    def test_arguments_stay_as_they_are(self, device: Device) -> None:
        target = self.targets(device, 100)
        before = target.clone()
        state = device.program(target, SEED, 0)
        held = DeviceState(*(None if t is None else t.clone() for t in state))
        device.read(state, age(60.0), SEED, 2)
        assert same_bits(target, before)
        assert same_bits(tensors(state), tensors(held))

    def test_same_seed_and_offset_repeat(self, device: Device) -> None:
        target = self.targets(device, 1000)
        state, again = device.program(target, SEED, 4), device.program(target, SEED, 4)
        assert same_bits(tensors(state), tensors(again))
        assert same_bits(device.read(state, age(9.0), SEED, 6), device.read(again, age(9.0), SEED, 6))

    def test_devices_are_independent_of_those_after_them(self, device: Device) -> None:
        target = self.targets(device, 1000)
        state, few = device.program(target, SEED, 0), device.program(target[:77], SEED, 0)
        assert same_bits([t[..., :77] for t in tensors(state)], tensors(few))

    def test_drift_starts_at_what_was_programmed_and_never_turns_back(self, device: Device) -> None:
        state = device.program(self.targets(device, 2000), SEED, 0)
        courses = torch.stack([device.drift(state, age(t)) for t in self.ages])
        assert same_bits(courses[0], state.conductance)
        assert (courses.diff(dim=0) <= 0.0).all()

    def test_an_age_each_is_that_age_for_all(self, device: Device) -> None:
        state = device.program(self.targets(device, 40, 50), SEED, 0)
        for ages in (age(3600.0).expand(40, 50), age(3600.0).expand(40, 1)):
            torch.testing.assert_close(device.drift(state, ages), device.drift(state, age(3600.0)), rtol=1e-6, atol=0.0)

    def test_older_devices_are_read_as_older(self, device: Device) -> None:
        state = device.program(self.targets(device, 2, 500), SEED, 0)
        ages = torch.tensor([[0.0], [1e7]], dtype=torch.float64)
        both = device.read(state, ages, SEED, 2)
        for row, seconds in enumerate((0.0, 1e7)):
            torch.testing.assert_close(both[row], device.read(state, age(seconds), SEED, 2)[row], rtol=2e-6, atol=0.0)

    def test_reads_are_noisy_if_it_says_so(self, device: Device) -> None:
        state = device.program(self.level(device, 0.5, 1000), SEED, 0)
        first, second = (device.read(state, age(60.0), SEED, offset) for offset in (2, 3))
        assert same_bits(first, device.drift(state, age(60.0))) is not device.reads_are_noisy
        assert same_bits(first, second) is (self.repeats or not device.reads_are_noisy)

    @pytest.mark.parametrize("g", [0.05, 0.5, 1.0])
    def test_programming_meets_its_law(self, device: Device, g: float) -> None:
        state = device.program(self.level(device, g), SEED, 0)
        assert standard_errors(state.conductance, *self.programmed(g)) < BOUND

    @pytest.mark.parametrize("g", [0.05, 0.5, 1.0])
    def test_drift_meets_its_law(self, device: Device, g: float) -> None:
        state = DeviceState(self.level(device, g), device.program(self.level(device, g), SEED, 0).nu)
        for seconds in self.ages[2:]:
            left = device.drift(state, age(seconds)).double() / state.conductance.double()
            assert standard_errors(left, *self.retained(g, seconds)) < BOUND

    @pytest.mark.parametrize("g", [0.2, 0.5, 1.0])
    def test_reads_meet_their_law(self, device: Device, g: float) -> None:
        for seconds in self.ages:
            state = self.held(device, g, seconds)
            ratio = device.read(state, age(seconds), SEED, 2).double() / device.drift(state, age(seconds)).double()
            wanted = self.read_sd(g, seconds)
            assert abs(ratio.std().item() - wanted) <= BOUND * wanted / np.sqrt(2 * N)
