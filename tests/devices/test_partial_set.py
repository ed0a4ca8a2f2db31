"""Growth of the conductance with the length of a SET pulse."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from phasegrad.devices import PartialSet, nandakumar_2018_partial_set

N = 40_000


def normals(seed: int) -> torch.Tensor:
    return torch.randn(N, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def law() -> PartialSet:
    return nandakumar_2018_partial_set()


def test_one_pulse_is_the_published_step(law):
    start = torch.full((N,), 5e-6)
    step = law.after(start, torch.full((N,), law.length), torch.zeros(N), normals(0)) - start
    mean, sd = (-0.084 * 5.0 + 0.892) * 1e-6, (0.09 * 5.0 + 0.575) * 1e-6
    assert abs(step.mean().item() - mean) < 4.0 * sd / math.sqrt(N)
    assert abs(step.std().item() / sd - 1.0) < 4.0 / math.sqrt(2.0 * N)


def test_two_pulses_equal_one_of_twice_the_length_in_law(law):
    law = dataclasses.replace(law, deviation=(0.575e-6, 0.0), lowest=0.0, highest=1.0)
    start, length, same = torch.full((N,), 5e-6), torch.full((N,), 30e-9), torch.zeros(N)
    two = law.after(law.after(start, length, same, normals(1)), length, same, normals(2))
    one = law.after(start, 2.0 * length, same, normals(3))
    sd = one.std().item()
    assert abs(two.mean().item() - one.mean().item()) < 4.0 * sd * math.sqrt(2.0 / N)
    assert abs(two.std().item() / sd - 1.0) < 4.0 / math.sqrt(N)


def test_long_pulses_reach_the_plateau(law):
    law = dataclasses.replace(law, deviation=(0.0, 0.0))
    after = law.after(torch.full((1,), 1e-7), torch.tensor([1e-3]), torch.zeros(1), torch.zeros(1))
    assert after.item() == pytest.approx(0.892 / 0.084 * 1e-6, rel=1e-6)


def test_speed_is_the_growth_after_reset(law):
    law, short = dataclasses.replace(law, deviation=(0.0, 0.0)), 1e-10
    start = torch.full((1,), law.lowest, dtype=torch.float64)
    grown = law.after(start, torch.tensor([short]), torch.zeros(1), torch.zeros(1)) - start
    assert grown.item() / short == pytest.approx(law.speed, rel=1e-3)


def test_devices_differ_in_speed(law):
    law = dataclasses.replace(law, deviation=(0.0, 0.0), rate_sd=0.3)
    start, short = torch.full((N,), 1e-7, dtype=torch.float64), torch.full((N,), 1e-10, dtype=torch.float64)
    step = law.after(start, short, normals(4).double(), torch.zeros(N)) - start
    assert abs(step.log().std().item() / 0.3 - 1.0) < 4.0 / math.sqrt(2.0 * N)


def test_no_pulse_changes_nothing(law):
    start = torch.full((N,), 5e-6)
    assert torch.equal(law.after(start, torch.zeros(N), normals(5), normals(6)), start)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": (0.892e-6, 0.1)}, "plateau"),
        ({"deviation": (-1e-6, 0.0)}, "deviation"),
        ({"lowest": 1e-3}, "below highest"),
        ({"length": 0.0}, "length"),
    ],
)
def test_refuses_a_law_that_is_none(law, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(law, **change)
