"""Killed 20 times, a run ends with the bits of the run left alone."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from tests.checkpoint.life import RUNS, STEPS, death, killed, live
from tests.contracts.op import same_bits

from phasegrad.checkpoint import run

KILLS = 20


@pytest.mark.parametrize("name", RUNS)
def test_killed_at_random_moments_it_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    # Lives are forked from a process that has made a training step, for which torch loads much of itself.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["phasegrad", "tests.checkpoint.warm"])
    ends = [None, *map(death, range(KILLS)), None]
    folders = [tmp_path / "alone", *[tmp_path / "killed"] * (KILLS + 1)]
    deaths, in_writing = [], 0
    for end, folder in zip(ends, folders, strict=True):
        deaths.append(killed(context.Process(target=live, args=(name, folder, end))))
        in_writing += end is not None and any(folder.glob(".*.writing"))
    assert deaths == [False, *[True] * KILLS, False]
    assert in_writing >= KILLS // 4
    alone, survivor = (run.read(tmp_path / which / f"step-{STEPS:09d}.pt") for which in ("alone", "killed"))
    assert len(survivor["values"]["losses"]) == STEPS
    assert alone["values"] == survivor["values"]
    assert alone["states"]["loader"] == survivor["states"]["loader"]
    assert same_bits(alone, survivor)
