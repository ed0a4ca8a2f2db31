"""Contracts of custom devices, cells and converters, as pytest classes.

A contract is a class of tests that every implementation must pass. To check a custom implementation, subclass the
contract in a pytest file, with a name that starts with ``Test``, and override the methods that describe it: how to
create it, and the laws that it must follow. Deviations are compared with standard errors of samples drawn with a fixed
seed, so that results are reproducible.

This module requires pytest. ``import phasegrad`` does not import it.

Examples:
    In ``test_my_device.py``, for a device that relaxes to 0 with a time constant of 5e6 s:

    >>> import math
    >>> from phasegrad.devices import Capacitor
    >>> from phasegrad.testing import ConverterContract, DeviceContract
    >>> class TestMyDevice(DeviceContract):
    ...     def configuration(self):
    ...         return Capacitor(g_max=20e-6, tau=5e6, rest=0.0)
    ...
    ...     def programmed(self, g):
    ...         return 20e-6 * g, 0.0  # mean and standard deviation [S]
    ...
    ...     def retained(self, g, seconds):
    ...         return math.exp(-seconds / 5e6), 0.0
    ...
    ...     def read_sd(self, g, seconds):
    ...         return 0.0

    For a converter:

    >>> from phasegrad.crossbar import RampAdc
    >>> class TestMyConverter(ConverterContract):
    ...     def configuration(self):
    ...         return RampAdc(curvature=0.5, gain_mismatch=0.01)

    Before the first import, ``pytest.register_assert_rewrite("phasegrad.testing")`` in ``conftest.py`` makes failures
    show the compared values.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from collections.abc import Callable, Sequence
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from phasegrad.cells import Cell
from phasegrad.configuration import Configuration, from_json
from phasegrad.crossbar.converters import OutputConverter
from phasegrad.crossbar.converters.state import draw_errors
from phasegrad.devices import Device, DeviceState, ideal_device, joshi_2020

__all__ = ["CellContract", "ConfigurationContract", "ConverterContract", "DeviceContract", "at_age"]

SEED = torch.tensor([7])
BOUND = 5.0
"""Standard errors by which a sample may deviate from its law."""


class ConfigurationContract:
    """Tests of every configuration: immutable, keyword-only, comparable, and readable from its JSON."""

    def configuration(self) -> Configuration:
        """Create the configuration under test."""
        raise NotImplementedError

    def test_json_round_trip_preserves_it(self) -> None:
        """JSON restores an equal configuration of the same type."""
        mine = self.configuration()
        theirs = from_json(mine.to_json())
        assert type(theirs) is type(mine)
        assert theirs == mine
        assert mine.differences(theirs) == []

    def test_is_frozen(self) -> None:
        """Fields cannot be assigned."""
        mine = self.configuration()
        for field in dataclasses.fields(mine):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(mine, field.name, getattr(mine, field.name))

    def test_accepts_keywords_only(self) -> None:
        """Positional arguments raise."""
        mine = self.configuration()
        values = [getattr(mine, f.name) for f in dataclasses.fields(mine)]
        with pytest.raises(TypeError, match="positional argument"):
            type(mine)(*values)

    def test_equal_ones_have_equal_hashes(self) -> None:
        """Equal configurations have the same hash."""
        assert hash(self.configuration()) == hash(self.configuration())

    def test_copies_equal_it(self) -> None:
        """Copies and pickles equal the original."""
        mine = self.configuration()
        assert copy.deepcopy(mine) == mine
        assert pickle.loads(pickle.dumps(mine)) == mine


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

    def test_arguments_are_not_modified(self, device: Device) -> None:
        """Programming and reading modify neither targets nor state."""
        target = self.targets(device, 100)
        before = target.clone()
        state = device.program(target, SEED, 0)
        copied = [t.clone() for t in _tensors(state)]
        device.read(state, at_age(60.0), SEED, 2)
        assert _same_bits([target], [before])
        assert _same_bits(_tensors(state), copied)

    def test_same_seed_and_offset_repeat(self, device: Device) -> None:
        """The same seed and stream repeat programming and reads to the bit."""
        target = self.targets(device, 1000)
        state, again = device.program(target, SEED, 4), device.program(target, SEED, 4)
        assert _same_bits(_tensors(state), _tensors(again))
        reads = [[device.read(s, at_age(9.0), SEED, 6)] for s in (state, again)]
        assert _same_bits(*reads)

    def test_devices_are_independent_of_later_ones(self, device: Device) -> None:
        """The first devices of an array do not depend on its size."""
        target = self.targets(device, 1000)
        state, few = device.program(target, SEED, 0), device.program(target[:77], SEED, 0)
        assert _same_bits([t[..., :77] for t in _tensors(state)], _tensors(few))

    def test_drift_starts_at_the_programmed_conductance_and_is_monotone(self, device: Device) -> None:
        """Drift starts at the programmed conductance and does not change direction."""
        state = device.program(self.targets(device, 2000), SEED, 0)
        courses = torch.stack([device.drift(state, at_age(t)) for t in self.ages])
        assert _same_bits([courses[0]], [state.conductance])
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
        assert _same_bits(first, [device.drift(state, at_age(60.0))]) is not device.reads_are_noisy
        assert _same_bits(first, second) is (self.repeats or not device.reads_are_noisy)

    @pytest.mark.parametrize("g", [0.05, 0.5, 1.0])
    def test_programming_follows_its_law(self, device: Device, g: float) -> None:
        """The mean conductance after programming is that of ``programmed``."""
        state = device.program(self.level(device, g), SEED, 0)
        assert _standard_errors(state.conductance, *self.programmed(g)) < BOUND

    @pytest.mark.parametrize("g", [0.05, 0.5, 1.0])
    def test_drift_follows_its_law(self, device: Device, g: float) -> None:
        """The mean remaining fraction of the conductance is that of ``retained``."""
        state = DeviceState(self.level(device, g), device.program(self.level(device, g), SEED, 0).nu)
        for seconds in self.ages[2:]:
            left = device.drift(state, at_age(seconds)).double() / state.conductance.double()
            assert _standard_errors(left, *self.retained(g, seconds)) < BOUND

    @pytest.mark.parametrize("g", [0.2, 0.5, 1.0])
    def test_reads_follow_their_law(self, device: Device, g: float) -> None:
        """The standard deviation of reads is that of ``read_sd``."""
        for seconds in self.ages:
            state = self.at_conductance(device, g, seconds)
            drifted = device.drift(state, at_age(seconds)).double()
            ratio = device.read(state, at_age(seconds), SEED, 2).double() / drifted
            wanted = self.read_sd(g, seconds)
            assert abs(ratio.std().item() - wanted) <= BOUND * wanted / math.sqrt(2 * self.samples)


class CellContract(ConfigurationContract):
    """Tests of every unit cell whose weights are not rounded: targets, weights, and independent devices."""

    devices: ClassVar[int]
    """Devices per cell."""
    samples: ClassVar[int] = 200_000
    """Cells per sample."""

    def cell(self, device: Device) -> Cell:
        """Create the cell under test from a device."""
        raise NotImplementedError

    def configuration(self) -> Cell:
        """Create the cell under test with noisy devices."""
        return self.cell(joshi_2020())

    def weights(self, *shape: int) -> Tensor:
        """Random weights in [-1, 1]."""
        return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0

    @pytest.mark.parametrize("shape", [(), (1,), (0, 3), (5, 7), (2, 3, 4)], ids=str)
    def test_targets_represent_their_weight(self, shape: tuple[int, ...]) -> None:
        """The weight of the targets of a weight is that weight."""
        cell, w = self.cell(ideal_device()), self.weights(*shape)
        targets = cell.targets(w)
        assert targets.shape == (self.devices, *shape)
        assert len(cell.factors) == self.devices
        torch.testing.assert_close(cell.weight(targets), w, rtol=1e-6, atol=1e-6)

    def test_ideal_devices_store_the_weight(self) -> None:
        """Cells of ideal devices store weights exactly."""
        cell, w = self.cell(ideal_device(g_max=7e-6)), self.weights(5, 7)
        state = cell.program(w, SEED, 0)
        torch.testing.assert_close(cell.weight(state.conductance), w, rtol=1e-6, atol=1e-6)

    def test_targets_use_the_window_of_the_device(self) -> None:
        """Targets of weights in [-1, 1] cover the window of the device."""
        cell = self.configuration()
        targets = cell.targets(torch.cat((self.weights(1000), torch.tensor([-1.0, 0.0, 1.0]))))
        assert targets.min().item() == pytest.approx(cell.device.lowest)
        assert targets.max().item() == pytest.approx(cell.device.g_max, rel=1e-6)

    def test_weight_is_linear_in_the_conductances(self) -> None:
        """The weight is a linear function of the conductances plus ``offset``."""
        cell = self.configuration()
        a, b = (cell.device.g_max * self.weights(self.devices, 100).abs() * s for s in (1.0, 0.3))
        wanted = cell.weight(a) + cell.weight(b) - cell.offset
        torch.testing.assert_close(cell.weight(a + b), wanted, rtol=1e-5, atol=2e-6)

    def test_negative_weights_mirror_positive_ones(self) -> None:
        """The targets of the opposite weight represent the opposite weight."""
        cell, w = self.configuration(), self.weights(100)
        torch.testing.assert_close(cell.weight(cell.targets(-w)), -cell.weight(cell.targets(w)), rtol=1e-6, atol=1e-6)

    def test_pulsed_devices_exist_and_move_the_weight(self) -> None:
        """The first device of an update raises the weight; the second, if it is another one, lowers it."""
        cell = self.configuration()
        for update in range(2 * self.devices):
            up, down = cell.pulsed(update)
            assert cell.factors[up] > 0.0
            assert down == up or cell.factors[down] < 0.0

    def test_rewritten_cells_keep_their_weight(self) -> None:
        """A rewrite of saturated cells preserves their weight."""
        cell, w = self.cell(ideal_device()), self.weights(100)
        targets = cell.targets(w)
        raised = 0.5 * (targets + cell.device.g_max)
        rewritten = cell.weight(cell.rewrite_targets(raised))
        torch.testing.assert_close(rewritten, cell.weight(raised), rtol=1e-5, atol=2e-6)

    def test_devices_have_independent_errors(self) -> None:
        """Programming errors of the devices of a cell are uncorrelated."""
        cell = self.configuration()
        g = cell.program(torch.zeros(self.samples), SEED, 0).conductance.double()
        between = torch.corrcoef(g).reshape(self.devices, self.devices) - torch.eye(self.devices, dtype=torch.float64)
        assert between.abs().max().item() < BOUND / math.sqrt(self.samples)

    def test_variance_is_that_of_independent_devices(self) -> None:
        """The variance of the weight is the sum of the variances of the devices times their squared factors."""
        cell = self.configuration()
        g = cell.program(torch.full((self.samples,), 0.5), SEED, 0).conductance
        variances = (g.double() / cell.device.window).var(1)
        wanted = sum(f * f * v.item() for f, v in zip(cell.factors, variances, strict=True))
        found = cell.weight(g).double().var().item()
        assert abs(found / wanted - 1.0) < BOUND * math.sqrt(2 * 2.0 / self.samples)

    def test_rejects_a_device_of_a_wrong_type(self) -> None:
        """A device that is not a Device raises."""
        with pytest.raises(TypeError, match=r"device = 25 \(int\); it must be Device"):
            self.cell(25)  # type: ignore[arg-type]


class ConverterContract(ConfigurationContract):
    """Tests of every bit-line converter, for moderate errors: less than a quarter of the range in total."""

    converters: ClassVar[int] = 2000
    """Physical converters per sample."""

    def configuration(self) -> OutputConverter:
        """Create the converter under test."""
        raise NotImplementedError

    def convert(self, y: Tensor, full: Tensor | float = 1.0, adc: OutputConverter | None = None) -> Tensor:
        """Convert inputs ``[converters, inputs]`` by that number of physical converters with noise."""
        adc = self.configuration() if adc is None else adc
        errors = draw_errors(adc.errors, (len(y), 1), SEED, 0).unbind(0)
        return adc.convert(y, torch.as_tensor(full), errors, _normals(tuple(y.shape)))

    def test_output_increases_with_the_input_on_average(self) -> None:
        """The mean output over converters never decreases and follows the input over the range."""
        ramp = torch.linspace(-1.2, 1.2, 97)
        outputs = self.convert(ramp.expand(self.converters, -1)).double()
        steps = outputs.diff(dim=1)
        error = steps.std(0) / math.sqrt(self.converters)
        assert (steps.mean(0) >= -BOUND * error - 1e-6).all()
        assert (outputs[:, -1] - outputs[:, 0]).mean().item() > 1.0

    def test_output_has_at_most_two_to_the_bits_levels(self) -> None:
        """One converter outputs no more levels than its resolution allows."""
        adc = self.configuration()
        ramp = torch.linspace(-1.2, 1.2, 1 << (adc.bits + 3)).unsqueeze(0)
        steps = (self.convert(ramp) * adc.max_code * 2.0).round()
        assert len(steps.unique()) <= 1 << adc.bits

    def test_output_clips_to_the_range(self) -> None:
        """Outputs stay within the range; inputs far outside of it have the same output."""
        y = torch.tensor([-1e6, -10.0, 10.0, 1e6]).expand(50, -1)
        outputs = self.convert(y, full=0.7, adc=self.configuration().without_noise())
        assert (outputs.abs() <= 0.7 * (1.0 + 1e-6)).all()
        assert (outputs[:, 0] == outputs[:, 1]).all()
        assert (outputs[:, 2] == outputs[:, 3]).all()
        assert (outputs[:, 0] < 0.0).all()
        assert (outputs[:, 3] > 0.0).all()

    def test_values_that_are_not_finite_or_have_no_range_pass(self) -> None:
        """NaN, infinities, and inputs with a range of 0 pass unchanged."""
        y = torch.tensor([[math.nan, math.inf, -math.inf]])
        assert _same_bits([self.convert(y)], [y])
        y = torch.tensor([[-2.0, 0.3, 5.0]])
        assert _same_bits([self.convert(y, full=0.0)], [y])

    def test_gradient_is_straight_through(self) -> None:
        """The gradient passes to the input within the range, and to the range outside of it."""
        y = torch.tensor([[-3.0, -0.4, 0.4, 3.0]], requires_grad=True)
        full = torch.ones(1, 4, requires_grad=True)
        self.convert(y, full).sum().backward()
        assert y.grad is not None
        assert full.grad is not None
        assert y.grad.tolist() == [[0.0, 1.0, 1.0, 0.0]]
        assert full.grad.tolist() == [[-1.0, 0.0, 0.0, 1.0]]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_output_has_the_shape_and_dtype_of_the_input(self, dtype: torch.dtype) -> None:
        """Outputs have the shape and dtype of the inputs."""
        y = torch.linspace(-1.0, 1.0, 35).view(5, 7).to(dtype)
        outputs = self.convert(y)
        assert (outputs.shape, outputs.dtype) == (y.shape, dtype)

    def test_errors_are_drawn_reproducibly(self) -> None:
        """A seed determines the errors; another seed draws other errors of the same mean and standard deviation."""
        tolerances = self.configuration().errors
        draws = [draw_errors(tolerances, (self.converters,), SEED + s, 0) for s in (0, 0, 1)]
        assert _same_bits(draws[:1], draws[1:2])
        for (mean, sd), found, other in zip(tolerances, draws[0], draws[2], strict=True):
            assert _same_bits([found], [other]) is (sd == 0.0)
            assert _standard_errors(found, mean, sd) < BOUND

    def test_conversion_without_noise_draws_nothing(self) -> None:
        """The converter without noise converts the same inputs to the same outputs and draws no normals."""
        adc = self.configuration().without_noise()
        errors = draw_errors(adc.errors, (20, 1), SEED, 0).unbind(0)

        def refuse(decision: int) -> Tensor:
            raise AssertionError(f"a converter without noise drew normals for decision {decision}")

        y = torch.linspace(-1.0, 1.0, 51).expand(20, -1)
        assert _same_bits(*([adc.convert(y, torch.ones(1), errors, refuse)] for _ in range(2)))


def at_age(seconds: float) -> Tensor:
    """An age as devices expect it: float64 ``[1]`` [s]."""
    return torch.tensor([seconds], dtype=torch.float64)


def _normals(shape: tuple[int, ...]) -> Callable[[int], Tensor]:
    return lambda decision: torch.ops.phasegrad.normal(SEED, (1 << 20) + decision, shape)


def _tensors(state: DeviceState) -> list[Tensor]:
    return [t for t in state if t is not None]


def _same_bits(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether tensors are equal bit by bit: NaN equals the same NaN, and 0 differs from -0."""
    pairs = zip(some, others, strict=True)
    return all(a.dtype == b.dtype and a.shape == b.shape and _bytes(a) == _bytes(b) for a, b in pairs)


def _bytes(t: Tensor) -> bytes:
    return t.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _standard_errors(sample: Tensor, mean: float, sd: float) -> float:
    """Deviation of the mean of a sample from its law, in standard errors; of all values where ``sd`` is 0."""
    sample = sample.double()
    if sd == 0.0:
        return float((sample / mean - 1.0).abs().max() / 1e-6) if mean else float(sample.abs().max())
    return abs(sample.mean().item() - mean) * math.sqrt(sample.numel()) / sd
