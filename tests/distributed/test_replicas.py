"""Replicas in two processes are equal to the bit, and learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contracts.op import same_bits
from tests.distributed import replicas
from tests.distributed.replicas import ALGORITHMS, start


def learned(found: list[Any]) -> bool:
    return all(sum(one["losses"][-10:]) < 0.9 * sum(one["losses"][:10]) for one in found)


def test_hardware_aware_replicas(tmp_path: Path) -> None:
    found = start(replicas.hardware_aware, tmp_path)
    assert same_bits(found[0]["states"], found[1]["states"])
    assert not torch.equal(found[0]["stream"], found[1]["stream"])  # the noise is independent
    assert learned(found)


@pytest.mark.parametrize(
    ("name", "convolution"), [*((name, False) for name in ALGORITHMS), ("AnalogSGD", True), ("MixedPrecision", True)]
)
def test_in_memory_replicas(name: str, convolution: bool, tmp_path: Path) -> None:
    found = start(replicas.in_memory, tmp_path, name, convolution)
    assert same_bits(found[0]["states"], found[1]["states"])
    assert not torch.equal(found[0]["stream"], found[1]["stream"])
    assert any(key.endswith("devices.conductance") for key in found[0]["states"][0])
    if name in ("AnalogSGD", "MixedPrecision") and not convolution:
        assert learned(found)


def test_a_net_inside_another_module(tmp_path: Path) -> None:
    found = start(replicas.inside_another_module, tmp_path)
    assert same_bits(found[0], found[1])
    assert same_bits(found[0]["False"], found[0]["True"])


def test_an_update_receives_all_samples_in_the_order_of_the_ranks(tmp_path: Path) -> None:
    found = start(replicas.staged, tmp_path)
    wanted = [(True, x, d / 2) for one in found for x, d in one["sent"]]
    for one in found:
        assert len(one["seen"]) == 3
        assert same_bits(one["seen"], wanted)
        assert all(first for first, _, _ in one["seen"])
        assert one["left"] == [None, None]  # used up


def test_a_group_may_be_unreplicated(tmp_path: Path) -> None:
    found = start(replicas.unreplicated, tmp_path)
    assert not same_bits(found[0], found[1])


def test_processes_resume_from_the_same_step(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    for nothing, found, message in start(replicas.resumed, tmp_path, tmp_path / "kept"):
        assert nothing
        assert found == {"step": 20}
        assert "no intact checkpoint of the same step; by rank, they have [[30], [10]]" in message


def test_an_error_in_one_process_raises_in_all(tmp_path: Path) -> None:
    for message, unchanged in start(replicas.refused, tmp_path):
        assert "a staged input or gradient is not finite" in message
        assert unchanged
