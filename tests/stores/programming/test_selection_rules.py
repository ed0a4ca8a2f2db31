"""Which devices of a cell are SET, programmed or RESET."""

from __future__ import annotations

import torch

from phasegrad.cells import DifferentialPair, DifferentialSlices, SignificancePairs
from phasegrad.devices import ideal_device
from phasegrad.stores.programming.selection_rules import fill_up_to, parallel_devices, select_by_reads

DEVICE = ideal_device(g_max=10e-6)


def test_devices_with_the_same_factor_share_a_target():
    assert parallel_devices(DifferentialPair(device=DEVICE)) == [[0], [1]]
    assert parallel_devices(SignificancePairs(device=DEVICE, significances=(1.0, 1.0))) == [[0, 2], [1, 3]]
    assert parallel_devices(SignificancePairs(device=DEVICE, significances=(2.0, 1.0))) == [[0], [1], [2], [3]]
    assert parallel_devices(DifferentialSlices(device=DEVICE, bits=5, slices=2)) == [[0], [1], [2], [3]]


def test_one_device_is_programmed_whatever_it_can_reach():
    chosen = select_by_reads(torch.tensor([0.0, 3.0, 9.0]), torch.tensor([[5.0, 5.0, 5.0]]))
    assert not chosen.stays.any()
    assert chosen.programmed.tolist() == [[False, True, True]]


def test_at_most_one_device_is_between_and_the_sum_is_in_reach():
    generator = torch.Generator().manual_seed(0)
    for devices in (2, 3, 5):
        full = 5.0 + 10.0 * torch.rand(devices, 1000, generator=generator)
        target = torch.rand(1000, generator=generator) * full.sum(0)
        chosen = select_by_reads(target, full)
        rest = target - (chosen.stays * full).sum(0)
        assert (chosen.programmed.sum(0) == 1).all()
        assert not (chosen.stays & chosen.programmed).any()
        assert (rest > 0.0).all()
        assert (rest <= (chosen.programmed * full).sum(0) + 1e-4).all()


def test_two_devices_follow_the_published_rule():
    full = torch.tensor([[8.0, 8.0, 12.0], [10.0, 10.0, 9.0]])
    chosen = select_by_reads(torch.tensor([9.0, 14.0, 12.5]), full)
    # 9 is within the strongest, which is programmed; 14 and 12.5 exceed both, and the weaker device is programmed.
    assert chosen.programmed.tolist() == [[False, True, False], [True, False, True]]
    assert chosen.stays.tolist() == [[False, False, True], [False, True, False]]


def test_a_dead_device_gets_no_part_of_the_target():
    chosen = select_by_reads(torch.tensor([6.0]), torch.tensor([[0.1], [10.0]]))
    assert chosen.programmed.tolist() == [[False], [True]]


def test_a_target_of_zero_leaves_all_at_reset():
    chosen = select_by_reads(torch.zeros(3), torch.ones(2, 3))
    assert not (chosen.stays | chosen.programmed).any()


def test_filling_keeps_the_sum():
    target = torch.linspace(0.0, 30.0, 301, dtype=torch.float64)
    parts = fill_up_to(target, 10.0, 3)
    assert torch.allclose(parts.sum(0), target)
    assert (((parts > 0.0) & (parts < 10.0)).sum(0) <= 1).all()
