"""A folder keeps the last checkpoints of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from phasegrad.checkpoint import Folder


def test_keeps_the_last_checkpoints(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "a" / "b", keep=2)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "notes.txt").write_text("mine")
    for step in (5, 900, 1000, 2000):
        folder.save(step, x=step)
    assert [file.name for file in folder.files()] == ["step-000002000.pt", "step-000001000.pt"]
    assert folder.resume() == {"x": 2000, "step": 2000}
    assert (tmp_path / "a" / "b" / "notes.txt").exists()


def test_resume_without_a_checkpoint_returns_none(tmp_path: Path) -> None:
    assert Folder(tmp_path / "none").resume() is None


def test_impossible_numbers_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep = 0"):
        Folder(tmp_path, keep=0)
    with pytest.raises(ValueError, match="step = -1"):
        Folder(tmp_path).save(-1)


def test_another_run_is_not_overwritten(tmp_path: Path) -> None:
    Folder(tmp_path).save(300, value=1)
    fresh = Folder(tmp_path)
    with pytest.raises(ValueError, match=r"step-000000300\.pt of another run"):
        fresh.save(50, value=2)
    assert [file.name for file in fresh.files()] == ["step-000000300.pt"]


def test_skipped_checkpoints_are_deleted(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.save(1, value=1)
    folder.save(3, value=3).write_bytes(b"damaged")
    resumed = Folder(tmp_path)
    assert resumed.resume() == {"step": 1, "value": 1}
    resumed.save(2, value=2)
    assert [file.name for file in resumed.files()] == ["step-000000002.pt", "step-000000001.pt"]
