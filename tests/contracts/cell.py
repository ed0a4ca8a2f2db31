"""What every unit cell must satisfy; a test class inherits it and supplies the cell and how errors average."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch
from tests.contracts.configuration import ConfigurationContract
from tests.contracts.op import same_bits
from torch import Tensor

from phasegrad.cells import Cell
from phasegrad.devices import Device, ideal_device, joshi_2020

SEED = torch.tensor([7])
N = 200_000
BOUND = 5.0


class CellContract(ConfigurationContract):
    devices: ClassVar[int]
    """Devices in a cell."""
    averaging: ClassVar[float]
    """The law: variance of a weight over the sum of the variances of one pair's two conductances, over g_max."""

    def cell(self, device: Device) -> Cell:
        raise NotImplementedError

    def configuration(self) -> Cell:
        return self.cell(joshi_2020())

    def weights(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0

    @pytest.mark.parametrize("shape", [(), (1,), (0, 3), (5, 7), (2, 3, 4)], ids=str)
    def test_targets_stand_for_their_weight(self, shape: tuple[int, ...]) -> None:
        cell, w = self.cell(ideal_device()), self.weights(*shape)
        targets = cell.targets(w)
        assert targets.shape == (self.devices, *shape)
        assert len(cell.factors) == self.devices
        torch.testing.assert_close(cell.weight(targets), w, rtol=1e-6, atol=1e-7)

    def test_ideal_devices_hold_the_weight(self) -> None:
        cell, w = self.cell(ideal_device(g_max=7e-6)), self.weights(5, 7)
        state = cell.program(w, SEED, 0)
        torch.testing.assert_close(cell.weight(state.conductance), w, rtol=1e-6, atol=1e-7)

    def test_targets_lie_in_the_range_of_the_device(self) -> None:
        cell = self.configuration()
        targets = cell.targets(torch.cat((self.weights(1000), torch.tensor([-1.0, 0.0, 1.0]))))
        assert targets.min() == 0.0
        assert targets.max().item() == pytest.approx(cell.device.g_max, rel=1e-6)

    def test_weight_is_linear_in_the_conductances(self) -> None:
        cell = self.configuration()
        a, b = (cell.device.g_max * self.weights(self.devices, 100).abs() * s for s in (1.0, 0.3))
        torch.testing.assert_close(cell.weight(a + b), cell.weight(a) + cell.weight(b), rtol=1e-5, atol=1e-6)

    def test_negative_weights_mirror_positive_ones(self) -> None:
        cell, w = self.configuration(), self.weights(100)
        assert same_bits(cell.weight(cell.targets(-w)), -cell.weight(cell.targets(w)) + 0.0)

    def test_each_device_draws_its_own_error(self) -> None:
        cell = self.configuration()
        g = cell.program(torch.zeros(N), SEED, 0).conductance.double()
        between = torch.corrcoef(g) - torch.eye(self.devices, dtype=torch.float64)
        assert between.abs().max().item() < BOUND / math.sqrt(N)

    def test_independent_errors_average(self) -> None:
        cell = self.configuration()
        g = cell.program(torch.full((N,), 0.5), SEED, 0).conductance.double() / cell.device.g_max
        weight = cell.weight(cell.program(torch.full((N,), 0.5), SEED, 0).conductance).double()
        pair = (g[0].var() + g[1].var()).item()
        assert abs(weight.var().item() / pair / self.averaging - 1.0) < BOUND * math.sqrt(2 * 2.0 / N)

    def test_mean_weight_is_that_of_a_pair(self) -> None:
        cell = self.configuration()
        g = cell.program(torch.full((N,), 0.5), SEED, 0).conductance
        wanted = ((g[0].double().mean() - g[1].double().mean()) / cell.device.g_max).item()
        weight = cell.weight(g).double()
        assert abs(weight.mean().item() - wanted) < BOUND * math.sqrt(2.0) * weight.std().item() / math.sqrt(N)

    def test_what_is_no_device_is_refused(self) -> None:
        with pytest.raises(TypeError, match=r"device = 25 \(int\); it must be Device"):
            self.cell(25)  # type: ignore[arg-type]
