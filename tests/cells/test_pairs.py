from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.cells.averaging import AveragingContract

from phasegrad.cells import Cell, DifferentialPair, SignificancePairs
from phasegrad.devices import Device, ideal_device


class TestDifferentialPair(AveragingContract):
    devices = 2
    averaging = 1.0

    def cell(self, device: Device) -> Cell:
        return DifferentialPair(device=device)

    def test_a_sign_chooses_the_device(self) -> None:
        targets = self.cell(ideal_device(g_max=20e-6)).targets(torch.tensor([0.5, -1.0, 0.0]))
        torch.testing.assert_close(targets, torch.tensor([[10e-6, 0.0, 0.0], [0.0, 20e-6, 0.0]]))


class TestTwoAndOne(AveragingContract):
    """Four devices per weight with the optimal factor of Mackin et al. (2022)."""

    devices = 4
    averaging = 5.0 / 9.0

    def cell(self, device: Device) -> Cell:
        return SignificancePairs(device=device, significances=(2.0, 1.0))

    def test_factors_are_the_significances_over_their_sum(self) -> None:
        assert self.configuration().factors == pytest.approx((2 / 3, -2 / 3, 1 / 3, -1 / 3))

    def test_errors_tell_significances_apart(self) -> None:
        # The averaging of (2, 1), (3, 1) and (1, 1): 0.556, 0.625, 0.5. The bound of the sampled test is 2.2 %.
        other = dataclasses.replace(self.configuration(), significances=(3.0, 1.0))
        assert sum(f * f for f in other.factors) / 2 == pytest.approx(0.625)
        assert sum(f * f for f in self.configuration().factors) / 2 == pytest.approx(5 / 9)


class TestThreeEqual(AveragingContract):
    devices = 6
    averaging = 1.0 / 3.0

    def cell(self, device: Device) -> Cell:
        return SignificancePairs(device=device, significances=(1.0, 1.0, 1.0))


class TestOneOfAny(AveragingContract):
    """A single pair equals a pair, whatever its significance."""

    devices = 2
    averaging = 1.0

    def cell(self, device: Device) -> Cell:
        return SignificancePairs(device=device, significances=(3.7,))


@pytest.mark.parametrize("bad", [(), (1.0, 0.0), (-1.0,), (float("nan"),), (float("inf"), 1.0)], ids=str)
def test_significances_are_finite_and_above_zero(bad: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"significances = \(.*\); give one or more finite numbers above 0"):
        SignificancePairs(device=ideal_device(), significances=bad)


def test_pairs_are_saturated_where_little_is_left_of_their_reach() -> None:
    g = torch.tensor([[9.1, 8.9, 9.1, 3.1, 2.9], [3.1, 3.1, 2.9, 9.1, 9.1]]) * 1e-6
    pair = DifferentialPair(device=ideal_device(g_max=12e-6))
    assert pair.saturated(g).tolist() == [True, False, False, True, False]
    shorter = dataclasses.replace(pair, reach=10.5e-6)  # 7.875 and 2.625 uS
    assert shorter.saturated(g).tolist() == [True] * 5
    assert not shorter.saturated(torch.tensor([[7.8, 7.9], [2.7, 2.6]]) * 1e-6).any()


@pytest.mark.parametrize("reach", [0.0, 13e-6, float("nan")])
def test_a_reach_lies_in_the_range_of_the_device(reach: float) -> None:
    with pytest.raises(ValueError, match="reach = "):
        DifferentialPair(device=ideal_device(g_max=12e-6), reach=reach)
