"""Loaders resume with the next batch."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

import phasegrad as pg
from phasegrad.checkpoint import ResumableLoader


def batches(loader: ResumableLoader, number: int) -> list[list[int]]:
    """The next batches, across epochs."""
    found: list[list[int]] = []
    while len(found) < number:
        found += [batch.tolist() for batch in islice(loader, number - len(found))]
    return found


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("count", [1, 4, 5, 6])
def test_resumes_after_any_batch(count: int, workers: int) -> None:
    whole = batches(ResumableLoader(range(19), 4, seed=3), 12)
    first = ResumableLoader(range(19), 4, seed=3, num_workers=workers)
    yielded, state = [], None
    while state is None:
        for batch in first:
            yielded.append(batch.tolist())
            if len(yielded) == count:
                state = first.state_dict()
                break
    second = ResumableLoader(range(19), 4, seed=3)
    second.load_state_dict(state)
    assert yielded + batches(second, 12 - count) == whole


def test_each_epoch_has_all_samples_in_a_new_order() -> None:
    loader = ResumableLoader(range(12), 4)
    epochs = [[index for batch in loader for index in batch.tolist()] for _ in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(12))] * 3
    assert epochs[0] != epochs[1] != epochs[2]
    assert loader.epoch == 3


def test_an_incomplete_pass_starts_again() -> None:
    loader = ResumableLoader(range(12), 4)
    assert next(iter(loader)).tolist() == next(iter(loader)).tolist()


def test_nothing_is_drawn_from_the_global_stream() -> None:
    before = torch.get_rng_state()
    list(ResumableLoader(range(12), 4))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("samples", "sizes"), [(16, [4, 4]), (19, [4, 4, 1]), (17, [4, 4])])
def test_processes_share_each_batch(samples: int, sizes: list[int]) -> None:
    loaders = [ResumableLoader(range(samples), 4, seed=1, rank=rank, ranks=2) for rank in range(2)]
    parts = [[batch.tolist() for batch in loader] for loader in loaders]
    assert [len(batch) for batch in parts[1]] == sizes
    one = [batch.tolist() for batch in ResumableLoader(range(samples), 8, seed=1)]
    assert [sorted(a + b) for a, b in zip(*parts, strict=True)] == [sorted(batch) for batch in one][: len(sizes)]
    assert [len(loader) for loader in loaders] == [len(sizes)] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size = 0"),
        ({"batch_size": 2, "rank": 2, "ranks": 2}, "rank = 2 with ranks = 2"),
        ({"batch_size": 20, "drop_last": True}, "9 samples are too few for a batch of 20 x 1"),
    ],
)
def test_impossible_numbers_are_named(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResumableLoader(range(9), **options)


@pytest.mark.filterwarnings("ignore")  # warnings of torchdata itself
def test_torchdatas_loader_is_saved_and_loaded(tmp_path: Path) -> None:
    torchdata = pytest.importorskip(
        "torchdata.stateful_dataloader", reason="torchdata is not installed: pip install .[integrations]"
    )

    def make() -> Any:
        own = torch.Generator().manual_seed(0)
        return torchdata.StatefulDataLoader(list(range(12)), 4, shuffle=True, generator=own)

    loader, other = make(), make()
    iterator = iter(loader)
    next(iterator)
    pg.checkpoint.save(tmp_path / "a", loader=loader)
    rest, drawn = [batch.tolist() for batch in iterator], torch.rand(3)
    pg.checkpoint.load(tmp_path / "a", loader=other)
    assert [batch.tolist() for batch in other] == rest
    assert torch.equal(torch.rand(3), drawn)
