"""The last few checkpoints of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from phasegrad.checkpoint import Folder


def test_keeps_the_last(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "a" / "b", keep=2)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "notes.txt").write_text("mine")
    for step in (5, 900, 1000, 2000):
        folder.save(step, x=step)
    assert [file.name for file in folder.files()] == ["step-000002000.pt", "step-000001000.pt"]
    assert folder.resume() == {"x": 2000, "step": 2000}
    assert (tmp_path / "a" / "b" / "notes.txt").exists()


def test_what_was_just_saved_stays_whatever_its_number(tmp_path: Path) -> None:
    folder = Folder(tmp_path, keep=1)
    folder.save(9)
    assert [file.name for file in (folder.save(3), *folder.files())] == ["step-000000003.pt"] * 2


def test_without_a_checkpoint_a_run_begins(tmp_path: Path) -> None:
    assert Folder(tmp_path / "none").resume() is None


def test_impossible_numbers_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep = 0"):
        Folder(tmp_path, keep=0)
    with pytest.raises(ValueError, match="step = -1"):
        Folder(tmp_path).save(-1)
