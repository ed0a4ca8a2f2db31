from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.cells.averaging import AveragingContract

import phasegrad as pg
from phasegrad.cells import Cell, MultiMemristive
from phasegrad.crossbar import Pulses
from phasegrad.devices import ConstantSteps, Device, ideal_device, nandakumar_2018
from phasegrad.stores import pulsed_weight

PCM = ideal_device(g_max=12e-6, steps=nandakumar_2018())


class TestFourPairs(AveragingContract):
    devices = 8
    averaging = 1.0 / 4.0

    def cell(self, device: Device) -> Cell:
        return MultiMemristive(device=device, pairs=4)

    def test_a_counter_chooses_the_pair(self) -> None:
        cell = self.configuration()
        assert [cell.pulsed(update) for update in range(6)] == [(0, 1), (2, 3), (4, 5), (6, 7), (0, 1), (2, 3)]


class TestOnePair(AveragingContract):
    """A cell with one pair equals a pair."""

    devices = 2
    averaging = 1.0

    def cell(self, device: Device) -> Cell:
        return MultiMemristive(device=device, pairs=1)


def layer(pairs: int, refresh: int = 0, device: Device = PCM, shape: tuple[int, int] = (30, 40)) -> pg.nn.AnalogLinear:
    cell = MultiMemristive(device=device, pairs=pairs, refresh=refresh)
    return pg.nn.AnalogLinear(*shape, hardware=pg.Hardware(cell=cell, scale=0.3, pulses=Pulses()))


def test_every_update_pulses_the_next_pair_alone() -> None:
    devices = layer(3).devices
    for update in range(7):
        before = devices.conductance.clone()
        samples = [(torch.ones(2, 30), torch.ones(2, 40) * (-1.0) ** update)]
        pulsed_weight.update(devices, samples, 1.0, torch.tensor([update]), torch.zeros(40, 30))
        moved = (devices.conductance != before).flatten(1).any(1).nonzero().flatten().tolist()
        # One sign pulses G+ of the selected pair, the other its G-.
        assert moved == [2 * (update % 3) + (1 if update % 2 == 0 else 0)]
    assert int(devices.updates) == 7


def test_counted_pulses_turn_too() -> None:
    devices = layer(2).devices
    for update in range(3):
        before = devices.conductance.clone()
        pulsed_weight.send_counts(
            devices, torch.ones(40, 30, dtype=torch.int32), torch.tensor([update]), torch.zeros(40, 30)
        )
        assert (devices.conductance != before).flatten(1).any(1).nonzero().flatten().tolist() == [2 * (update % 2)]


@pytest.mark.parametrize("pairs", [1, 4, 7])
def test_a_pulse_moves_the_weight_by_its_granularity(pairs: int) -> None:
    devices = layer(pairs, device=ideal_device(g_max=12e-6, steps=ConstantSteps(size=0.1e-6))).devices
    assert devices.dw_min == pytest.approx(0.3 * 0.1 / 12.0 / pairs)
    before = devices.logical_weight()
    pulsed_weight.send_counts(
        devices, torch.full((40, 30), 5, dtype=torch.int32), torch.tensor([0]), torch.zeros(40, 30)
    )
    inside = devices.conductance[0] < 11.9e-6
    change = (devices.logical_weight() - before)[inside]
    torch.testing.assert_close(change, torch.full_like(change, 5.0 * devices.dw_min), rtol=1e-4, atol=1e-7)


def test_an_update_descends_by_the_learning_rate_whatever_the_number_of_pairs() -> None:
    for pairs in (1, 5):
        steps = ConstantSteps(size=0.1e-6)
        devices = layer(pairs, device=ideal_device(g_max=12e-6, steps=steps), shape=(200, 100)).devices
        devices.conductance.fill_(3e-6)
        before = devices.logical_weight()
        samples = [(torch.ones(1, 200), torch.full((1, 100), -1.0))]
        pulsed_weight.update(devices, samples, 0.0113, torch.tensor([3]), torch.zeros(100, 200))
        change = (devices.logical_weight() - before).double()
        # Coincidences of a train are binomial in each weight, and correlated along the lines: the standard
        # deviation of their mean over 100 and 200 lines is at most that of 100 weights.
        pulses = 0.0113 / devices.dw_min
        assert abs(change.mean().item() / 0.0113 - 1.0) < 5.0 / (pulses * 100) ** 0.5
        assert change.std().item() < 2.0 * devices.dw_min * pulses**0.5


def test_refresh_keeps_every_pairs_difference_and_makes_room() -> None:
    devices = layer(3, refresh=1).devices
    devices.conductance.uniform_(0.1e-6, 12e-6, generator=torch.Generator().manual_seed(0))
    before, weight = devices.conductance.clone(), devices.logical_weight()
    where = devices.hardware.cell.saturated(before)
    assert where.shape == before.shape
    assert torch.equal(where[0::2], where[1::2])
    assert 0.2 < where.double().mean().item() < 0.6
    assert not torch.equal(where[0], where[2])  # each pair separately
    nothing = [(torch.zeros(1, 30), torch.zeros(1, 40))]
    pulsed_weight.update(devices, nothing, 0.1, torch.tensor([1]), torch.zeros(40, 30))  # the look alone
    after = devices.conductance
    assert torch.equal(after[~where], before[~where])
    least = torch.minimum(after[0::2], after[1::2])[where[0::2]]
    assert (least - 0.1e-6).abs().max().item() < 0.05e-6  # RESET, with a spread of 10 %
    difference = (after[0::2] - after[1::2]) - (before[0::2] - before[1::2])
    assert difference.abs().max().item() < 0.05e-6
    assert (devices.logical_weight() - weight).abs().max().item() < 0.3 * 0.05 / 12
    history = torch.where(after[0::2] < after[1::2], devices.history[0::2], devices.history[1::2])
    assert (history[where[0::2]] == 1.0).all()
    assert (devices.history[where & (after > 0.2e-6)] < 0.7).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"pairs": 0}, "pairs = 0"), ({"pairs": 65}, "pairs = 65"), ({"refresh": -1}, "refresh = -1"),
     ({"reach": 13e-6}, "reach = 1.3e-05")],
)  # fmt: skip
def test_impossible_cells(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(MultiMemristive(device=PCM, pairs=4), **fields)  # type: ignore[arg-type]
