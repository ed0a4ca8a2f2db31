"""The contract of unit cells."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from phasegrad.cells import Cell
from phasegrad.devices import Device, ideal_device, joshi_2020
from phasegrad.testing.configuration import ConfigurationContract
from phasegrad.testing.samples import BOUND, SEED


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
