"""The host's knowledge of clocks and counters on a GPU, without waiting for it."""

from __future__ import annotations

import pytest
import torch
from tests.test_host_reads import NoHostReads

from phasegrad.stores import known_numbers


def test_the_host_follows_its_own_writes_and_reads_those_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_numbers, "waits", lambda tensor: True)
    clock, since = torch.tensor(0.1, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    assert known_numbers.number(clock) == 0.1
    with NoHostReads():
        for _ in range(3):
            known_numbers.add(clock, 0.7)
        known_numbers.copy(since, clock)
        known = known_numbers.number(since)
    assert known == float(clock) == float(since)
    clock.mul_(2.0)
    assert known_numbers.number(clock) == float(clock)
    assert known_numbers.number(since) != float(clock)


def test_counters_stay_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_numbers, "waits", lambda tensor: True)
    count = torch.tensor(2**53, dtype=torch.int64)
    known_numbers.add(count, 1)
    assert known_numbers.number(count) == int(count) == 2**53 + 1
