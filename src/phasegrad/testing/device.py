"""The contract of memory devices."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from phasegrad.devices import Device, DeviceState
from phasegrad.testing.configuration import ConfigurationContract
from phasegrad.testing.samples import BOUND, SEED, at_age, same_bits, standard_errors, tensors


class DeviceContract(ConfigurationContract):
    """Tests of every memory device: shapes, dtypes, reproducible draws, and the laws that a subclass states."""

    ages: ClassVar[tuple[float, ...]] = (0.0, 1.0, 3600.0, 3.15e7)
    """Ages at which devices are read [s], from 0 in increasing order."""
    repeats: ClassVar[bool] = False
    """Whether all reads at the same age return the same conductance."""
    samples: ClassVar[int] = 100_000
    """Devices per sample of a law."""

    def configuration(self) -> Device:
        """Create the device under test."""
        raise NotImplementedError

    def programmed(self, g: float) -> tuple[float, float]:
        """Law: mean and standard deviation [S] of the conductance after programming to ``g g_max``."""
        raise NotImplementedError

    def retained(self, g: float, seconds: float) -> tuple[float, float]:
        """Law: mean and standard deviation of the fraction of a conductance that remains after drift."""
        raise NotImplementedError

    def read_sd(self, g: float, seconds: float) -> float:
        """Law: standard deviation of a read of ``g g_max``, relative to the drifted conductance."""
        raise NotImplementedError

    def at_conductance(self, device: Device, g: float, seconds: float) -> DeviceState:
        """State of devices whose conductance is exactly ``g g_max``, at an age [s]."""
        return DeviceState(self.level(device, g), torch.full((self.samples,), 0.03))

    @pytest.fixture
    def device(self) -> Device:
        """The device under test."""
        return self.configuration()

    def targets(self, device: Device, *shape: int) -> Tensor:
        """Random target conductances [S]."""
        return device.g_max * torch.rand(shape, generator=torch.Generator().manual_seed(0))

    def level(self, device: Device, g: float, n: int | None = None) -> Tensor:
        """The conductance ``g g_max`` for a number of devices [S]."""
        return torch.full((self.samples if n is None else n,), g * device.g_max)

    @pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 4, 5), (2, 1000)], ids=str)
    def test_state_has_the_shape_of_the_target(self, device: Device, shape: tuple[int, ...]) -> None:
        """State, drift and reads have the shape of the target, in float32."""
        target = self.targets(device, *shape)
        state = device.program(target, SEED, 0)
        read = device.read(state, at_age(60.0), SEED, 2)
        for t in (*state[:2], read, device.drift(state, at_age(60.0))):
            assert (t.shape, t.dtype) == (target.shape, torch.float32)

    def test_conductances_are_finite_and_not_negative(self, device: Device) -> None:
        """Conductances and drift exponents are finite and at least 0 at every age."""
        state = device.program(self.targets(device, 20_000) * 0.1, SEED, 0)
        for seconds in self.ages:
            seen = device.read(state, at_age(seconds), SEED, 2), device.drift(state, at_age(seconds))
            for t in (*state[:2], *seen):
                assert (t >= 0.0).all()
                assert t.isfinite().all()

    def test_stuck_devices_keep_their_conductance(self, device: Device) -> None:
        """``hold`` fixes stuck devices alone, which then do not drift if ``drifts_by_exponent``."""
        state = device.program(self.targets(device, 1000), SEED, 0)
        stuck = torch.full((1000,), torch.nan)
        stuck[::3] = 0.5 * device.g_max
        held, responds = device.hold(state, stuck), stuck.isnan()
        assert torch.equal(held.conductance[responds], state.conductance[responds])
        for seconds in self.ages if device.drifts_by_exponent else ():
            assert torch.equal(device.drift(held, at_age(seconds))[~responds], stuck[~responds])

    def test_arguments_are_not_modified(self, device: Device) -> None:
        """Programming and reading modify neither targets nor state."""
        target = self.targets(device, 100)
        before = target.clone()
        state = device.program(target, SEED, 0)
        copied = [t.clone() for t in tensors(state)]
        device.read(state, at_age(60.0), SEED, 2)
        assert same_bits([target], [before])
        assert same_bits(tensors(state), copied)

    def test_same_seed_and_offset_repeat(self, device: Device) -> None:
        """The same seed and stream repeat programming and reads to the bit."""
        target = self.targets(device, 1000)
        state, again = device.program(target, SEED, 4), device.program(target, SEED, 4)
        assert same_bits(tensors(state), tensors(again))
        reads = [[device.read(s, at_age(9.0), SEED, 6)] for s in (state, again)]
        assert same_bits(*reads)

    def test_devices_are_independent_of_later_ones(self, device: Device) -> None:
        """The first devices of an array do not depend on its size."""
        target = self.targets(device, 1000)
        state, few = device.program(target, SEED, 0), device.program(target[:77], SEED, 0)
        assert same_bits([t[..., :77] for t in tensors(state)], tensors(few))

    def test_drift_starts_at_the_programmed_conductance_and_is_monotone(self, device: Device) -> None:
        """Drift starts at the programmed conductance and does not change direction."""
        state = device.program(self.targets(device, 2000), SEED, 0)
        courses = torch.stack([device.drift(state, at_age(t)) for t in self.ages])
        assert same_bits([courses[0]], [state.conductance])
        changes = courses.diff(dim=0)
        assert ((changes <= 0.0).all(0) | (changes >= 0.0).all(0)).all()

    def test_one_age_per_device_equals_one_age_for_all(self, device: Device) -> None:
        """An age per device, in any broadcastable shape, acts as the same age for all."""
        state = device.program(self.targets(device, 40, 50), SEED, 0)
        wanted = device.drift(state, at_age(3600.0))
        for ages in (at_age(3600.0).expand(40, 50), at_age(3600.0).expand(40, 1)):
            torch.testing.assert_close(device.drift(state, ages), wanted, rtol=1e-6, atol=0.0)

    def test_reads_follow_the_age_of_each_device(self, device: Device) -> None:
        """A read of devices of several ages equals reads at each age."""
        state = device.program(self.targets(device, 2, 500), SEED, 0)
        ages = torch.tensor([[0.0], [1e7]], dtype=torch.float64)
        both = device.read(state, ages, SEED, 2)
        for row, seconds in enumerate((0.0, 1e7)):
            alone = device.read(state, at_age(seconds), SEED, 2)[row]
            torch.testing.assert_close(both[row], alone, rtol=2e-6, atol=0.0)

    def test_reads_are_noisy_as_declared(self, device: Device) -> None:
        """Reads differ from drift and from each other as ``reads_are_noisy`` and ``repeats`` declare."""
        state = device.program(self.level(device, 0.5, 1000), SEED, 0)
        first, second = ([device.read(state, at_age(60.0), SEED, offset)] for offset in (2, 3))
        assert same_bits(first, [device.drift(state, at_age(60.0))]) is not device.reads_are_noisy
        assert same_bits(first, second) is (self.repeats or not device.reads_are_noisy)

    @pytest.mark.parametrize("g", [0.05, 0.5, 1.0])
    def test_programming_follows_its_law(self, device: Device, g: float) -> None:
        """The mean conductance after programming is that of ``programmed``."""
        state = device.program(self.level(device, g), SEED, 0)
        assert standard_errors(state.conductance, *self.programmed(g)) < BOUND

    @pytest.mark.parametrize("g", [0.05, 0.5, 1.0])
    def test_drift_follows_its_law(self, device: Device, g: float) -> None:
        """The mean remaining fraction of the conductance is that of ``retained``."""
        state = DeviceState(self.level(device, g), device.program(self.level(device, g), SEED, 0).nu)
        for seconds in self.ages[2:]:
            left = device.drift(state, at_age(seconds)).double() / state.conductance.double()
            assert standard_errors(left, *self.retained(g, seconds)) < BOUND

    @pytest.mark.parametrize("g", [0.2, 0.5, 1.0])
    def test_reads_follow_their_law(self, device: Device, g: float) -> None:
        """The standard deviation of reads is that of ``read_sd``."""
        for seconds in self.ages:
            state = self.at_conductance(device, g, seconds)
            drifted = device.drift(state, at_age(seconds)).double()
            ratio = device.read(state, at_age(seconds), SEED, 2).double() / drifted
            wanted = self.read_sd(g, seconds)
            assert abs(ratio.std().item() - wanted) <= BOUND * wanted / math.sqrt(2 * self.samples)
