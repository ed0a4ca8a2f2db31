"""FSDP2 over two processes."""

from __future__ import annotations

from pathlib import Path

import torch
from tests.distributed import replicas
from tests.distributed.replicas import fit, mlp, start

import phasegrad as pg


def test_without_noise_it_gives_what_one_process_gives(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = pg.convert(mlp(), pg.Hardware(cell=pg.presets.pcm_inference().cell))
    one = pg.checkpoint.ResumableLoader(list(zip(*replicas.task(), strict=True)), 12, seed=2)
    fit(net, torch.optim.Adam(net.parameters(), lr=0.01), one)
    found = start(replicas.sharded, tmp_path, False)
    for key, value in net.named_parameters():
        torch.testing.assert_close(found[0]["whole"][key], value.detach(), rtol=1e-3, atol=1e-4)
        assert sum(rank["parts"][key] for rank in found) == len(value)
        assert all(rank["parts"][key] < len(value) for rank in found if len(value) > 1)


def test_with_noise_it_trains(tmp_path: Path) -> None:
    found = start(replicas.sharded, tmp_path, True)
    for key, value in found[0]["whole"].items():
        assert torch.equal(value, found[1]["whole"][key])
    assert all(sum(one["losses"][-10:]) < 0.9 * sum(one["losses"][:10]) for one in found)


def test_weights_in_the_memory_are_refused_with_the_way_out(tmp_path: Path) -> None:
    for said in start(replicas.sharded_in_memory, tmp_path):
        assert "cannot be sharded" in said
        assert "DistributedDataParallel" in said
