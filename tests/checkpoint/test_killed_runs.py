"""A run that is killed 20 times ends with the same bits as an uninterrupted run."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from tests.checkpoint.training_run import RUNS, STEPS, draw_kill, run_process, train
from tests.contracts.op import same_bits

from phasegrad.checkpoint import run

KILLS = 20


@pytest.mark.parametrize("name", RUNS)
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    # Processes are forked from one that has run a training step, because torch loads many modules at the first.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["phasegrad", "tests.checkpoint.preload"])
    kills = [None, *map(draw_kill, range(KILLS)), None]
    folders = [tmp_path / "uninterrupted", *[tmp_path / "killed"] * (KILLS + 1)]
    killed, while_writing = [], 0
    for kill, folder in zip(kills, folders, strict=True):
        killed.append(run_process(context.Process(target=train, args=(name, folder, kill))))
        while_writing += kill is not None and any(folder.glob(".*.writing"))
    assert killed == [False, *[True] * KILLS, False]
    assert while_writing >= KILLS // 4
    wanted, found = (run.read(tmp_path / which / f"step-{STEPS:09d}.pt") for which in ("uninterrupted", "killed"))
    assert len(found["values"]["losses"]) == STEPS
    assert found["values"] == wanted["values"]
    assert found["states"]["loader"] == wanted["states"]["loader"]
    assert same_bits(found, wanted)
