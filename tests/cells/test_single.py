from __future__ import annotations

import pytest
import torch

from phasegrad.cells import Cell, ReferencedDevice
from phasegrad.devices import ConstantSteps, Device, ideal_device
from phasegrad.testing import CellContract


class TestContract(CellContract):
    devices = 1

    def cell(self, device: Device) -> Cell:
        return ReferencedDevice(device=device)


class TestReferencedDevice:
    def configuration(self) -> Cell:
        return ReferencedDevice(device=ideal_device(g_max=20e-6, steps=ConstantSteps(size=1e-8)))

    def test_half_the_range_is_zero(self) -> None:
        targets = self.configuration().targets(torch.tensor([-1.0, 0.0, 0.5, 1.0]))
        torch.testing.assert_close(targets, torch.tensor([[0.0, 10e-6, 15e-6, 20e-6]]))

    @pytest.mark.parametrize("shape", [(), (1,), (0, 3), (5, 7)], ids=str)
    def test_ideal_devices_hold_the_weight(self, shape: tuple[int, ...]) -> None:
        w = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
        cell = self.configuration()
        state = cell.program(w, torch.tensor([7]), 0)
        assert state.conductance.shape == (1, *shape)
        torch.testing.assert_close(cell.weight(state.conductance), w, rtol=1e-6, atol=1e-6)

    def test_one_device_takes_pulses_of_both_signs(self) -> None:
        assert self.configuration().pulsed(3) == (0, 0)
        assert self.configuration().refresh_every == 0
        assert not self.configuration().saturated(torch.rand(1, 4)).any()
