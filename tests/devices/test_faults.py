"""Rates of faults: binomial counts, lines of tiles, and maps that grow with the rate."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from phasegrad.devices import FaultMap, Faults
from phasegrad.devices.faults import ArrayGeometry
from phasegrad.testing import ConfigurationContract

SEED = torch.tensor([7])
ARRAY = ArrayGeometry(shape=(2, 500, 700), rows=256, columns=128, reset=1e-6, set=25e-6, undriven=0.0)


def drawn(faults: Faults, array: ArrayGeometry = ARRAY, seed: Tensor = SEED) -> Tensor:
    return faults.draw(array, seed, 10, 3)


def within(count: float, rate: float, n: int) -> bool:
    """Whether a count of n independent draws is within four standard deviations of its mean."""
    return abs(count - rate * n) < 4.0 * (rate * (1.0 - rate) * n) ** 0.5


class TestFaults(ConfigurationContract):
    def configuration(self) -> Faults:
        return Faults(stuck_at_reset=0.01, dead_rows=0.001)


def test_each_kind_of_stuck_device_has_its_rate() -> None:
    stuck = drawn(Faults(stuck_at_reset=0.01, stuck_at_set=0.02, stuck_at_random=0.03))
    n = stuck.numel()
    assert within(int((stuck == torch.tensor(1e-6)).sum()), 0.01, n)
    assert within(int((stuck == torch.tensor(25e-6)).sum()), 0.02, n)
    between = stuck[(stuck > 1e-6) & (stuck < 25e-6)].double()
    assert within(len(between), 0.03, n)
    fraction = (between - 1e-6) / 24e-6  # uniform: mean 1/2, variance 1/12
    assert abs(float(fraction.mean()) - 0.5) < 4.0 * (1.0 / 12.0 / len(between)) ** 0.5


def test_dead_lines_are_lines_of_one_tile() -> None:
    rows = (drawn(Faults(dead_rows=0.1)) == 0.0).all(0)
    for first in range(0, 500, 128):
        assert bool((rows[first : first + 128] == rows[first]).all())
    assert within(int(rows[::128].sum()), 0.1, rows[::128].numel())
    columns = drawn(Faults(dead_columns=0.1)) == 0.0
    for first in range(0, 700, 256):
        assert bool((columns[..., first : first + 256] == columns[..., first : first + 1]).all())
    assert within(int(columns[..., ::256].sum()), 0.1, columns[..., ::256].numel())


def test_a_higher_rate_adds_devices() -> None:
    few, many = (~drawn(Faults(stuck_at_set=rate)).isnan() for rate in (0.01, 0.05))
    assert bool((many | ~few).all())
    assert int(many.sum()) > int(few.sum())


def test_kinds_and_seeds_are_independent() -> None:
    a, b = (~drawn(Faults(stuck_at_set=0.1), seed=torch.tensor([s])).isnan() for s in (1, 2))
    assert within(int((a & b).sum()), 0.01, a.numel())
    planes = ~drawn(Faults(stuck_at_set=0.1)).isnan()
    assert within(int((planes[0] & planes[1]).sum()), 0.01, planes[0].numel())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stuck_at_reset": -0.1}, "stuck_at_reset = -0.1"),
        ({"dead_rows": 1.5}, "dead_rows = 1.5"),
        ({"stuck_at_set": float("nan")}, "stuck_at_set = nan"),
        ({"stuck_at_reset": 0.6, "stuck_at_set": 0.6}, "sum must be at most 1"),
    ],
)
def test_impossible_rates_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Faults(**fields)


def test_a_map_lists_its_devices() -> None:
    faults = FaultMap(torch.full((2, 3, 4), torch.nan), reference=torch.full((2, 1, 4), torch.nan))
    faults.stuck[1, 2, 3] = 5e-6
    assert faults.reference is not None
    faults.reference[0, 0, 1] = 0.0
    assert [e[:4] for e in faults.entries()] == [("stuck", 1, 2, 3), ("reference", 0, 0, 1)]
    assert faults.count == 2
