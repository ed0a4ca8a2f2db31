"""FSDP2 with two processes."""

from __future__ import annotations

from pathlib import Path

import torch
from tests.distributed import replicas
from tests.distributed.replicas import fit, mlp, start

import phasegrad as pg


def test_without_noise_two_processes_equal_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = pg.convert(mlp(), pg.Hardware(cell=pg.presets.pcm_inference().cell))
    one = pg.checkpoint.ResumableLoader(list(zip(*replicas.task(), strict=True)), 12, seed=2)
    fit(net, torch.optim.Adam(net.parameters(), lr=0.01), one)
    found = start(replicas.sharded, tmp_path, False)
    for key, value in net.named_parameters():
        torch.testing.assert_close(found[0]["whole"][key], value.detach(), rtol=1e-3, atol=1e-4)
        assert sum(rank["parts"][key] for rank in found) == len(value)
        assert all(rank["parts"][key] < len(value) for rank in found if len(value) > 1)


def test_trains_with_noise(tmp_path: Path) -> None:
    found = start(replicas.sharded, tmp_path, True)
    for key, value in found[0]["whole"].items():
        assert torch.equal(value, found[1]["whole"][key])
    assert all(sum(one["losses"][-10:]) < 0.9 * sum(one["losses"][:10]) for one in found)


def test_a_net_from_the_meta_device_is_the_net_that_was_saved(tmp_path: Path) -> None:
    for rank in start(replicas.sharded_from_meta, tmp_path):
        assert "weight, bias" in rank["unloaded"]
        assert "has no values" in rank["unloaded"]
        assert bool(rank["initial"].isfinite().all())
        assert torch.equal(rank["loaded"], rank["saved"])


def test_sharded_in_memory_weights_raise_and_name_the_fix(tmp_path: Path) -> None:
    for message in start(replicas.sharded_in_memory, tmp_path):
        assert "cannot be sharded" in message
        assert "DistributedDataParallel" in message
