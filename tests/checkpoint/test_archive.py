"""Damaged files are detected, and a failed write preserves the previous file."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

import phasegrad as pg
from phasegrad.checkpoint import archive


@pytest.fixture
def run(tmp_path: Path) -> tuple[pg.checkpoint.Folder, Path]:
    """A folder with two checkpoints, and the path of the newer one."""
    folder = pg.checkpoint.Folder(tmp_path / "run")
    folder.save(1, net=nn.Linear(3, 2))
    return folder, folder.save(2, net=nn.Linear(3, 2))


def resumes(folder: pg.checkpoint.Folder, step: int) -> bool:
    found = folder.resume(net=nn.Linear(3, 2))
    return found is not None and found["step"] == step


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_skipped(
    kept: float, run: tuple[pg.checkpoint.Folder, Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder, file = run
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(pg.checkpoint.DamagedError, match=r"step-000000002\.pt (is truncated|has \d+ bytes)"):
        pg.checkpoint.load(file)
    assert resumes(folder, 1)
    assert "skipped a damaged checkpoint" in caplog.text
    assert str(file) in caplog.text


def test_every_flipped_bit_is_detected(run: tuple[pg.checkpoint.Folder, Path]) -> None:
    folder, file = run
    content, drawn = file.read_bytes(), random.Random(0)
    for place in [0, len(content) - 1, len(content) - 73, *(drawn.randrange(len(content)) for _ in range(60))]:
        flipped = bytearray(content)
        flipped[place] ^= 1 << drawn.randrange(8)
        file.write_bytes(flipped)
        with pytest.raises(pg.checkpoint.DamagedError, match=r"step-000000002\.pt"):
            pg.checkpoint.load(file)
    assert resumes(folder, 1)
    file.write_bytes(content)
    assert resumes(folder, 2)


def test_errors_name_files_that_are_not_checkpoints(tmp_path: Path) -> None:
    torch.save({"format": 1}, tmp_path / "torch.pt")
    (tmp_path / "text.pt").write_text("a,b\n" * 100)
    for name in ("torch.pt", "text.pt"):
        with pytest.raises(pg.checkpoint.DamagedError, match=f"{name} is truncated, or was not written by"):
            pg.checkpoint.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        pg.checkpoint.load(tmp_path / "none.pt")


def test_code_is_not_run(tmp_path: Path) -> None:
    archive.write(tmp_path / "a", {"format": 1, "values": print})
    with pytest.raises(pg.checkpoint.DamagedError, match="valid sha256, but is not a checkpoint"):
        pg.checkpoint.load(tmp_path / "a")


def test_a_later_format_raises_and_names_the_fix(run: tuple[pg.checkpoint.Folder, Path]) -> None:
    folder, file = run
    content = archive.read(file) | {"format": 2, "phasegrad": "9.0"}
    archive.write(file, content)
    with pytest.raises(ValueError, match=r"has format 2, written by phasegrad 9\.0; phasegrad .* reads up to 1"):
        folder.resume(net=nn.Linear(3, 2))  # an older checkpoint would silently lose steps


def test_a_run_does_not_start_again_if_all_checkpoints_are_damaged(run: tuple[pg.checkpoint.Folder, Path]) -> None:
    folder, _ = run
    for file in folder.files():
        file.write_bytes(b"")
    with pytest.raises(pg.checkpoint.DamagedError, match=r"all checkpoints in .* are damaged"):
        folder.resume()


def test_a_full_disk_keeps_the_last_checkpoint(small_disk: Path) -> None:
    folder = pg.checkpoint.Folder(small_disk)
    folder.save(1, net=nn.Linear(3, 2))
    free = shutil.disk_usage(small_disk).free
    with pytest.raises(OSError, match=rf"No space left.*: 4\d\d,\d\d\d bytes are needed, {free:,} are free there"):
        folder.save(2, net=nn.Linear(3, 2), big=torch.zeros(100_000))
    assert {file.name for file in small_disk.iterdir()} == {"step-000000001.pt", ".lock"}
    assert resumes(folder, 1)
    folder.save(2, net=nn.Linear(3, 2))
    assert resumes(folder, 2)


def test_a_failed_write_keeps_the_last_checkpoint(
    run: tuple[pg.checkpoint.Folder, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, file = run
    before = file.read_bytes()

    def full(sink: archive.Sink, view: memoryview) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive.Sink, "_write_all", full)
    with pytest.raises(OSError, match="No space left on device"):
        folder.save(2, net=nn.Linear(3, 2))
    assert file.read_bytes() == before
    assert len(list(folder.path.iterdir())) == 3  # the lock is one of them
    with pytest.raises(OSError, match="No space left on device"):
        folder.save(3, net=nn.Linear(3, 2))
    assert [one.name for one in folder.files()] == ["step-000000002.pt", "step-000000001.pt"]


@pytest.mark.parametrize("missing", [1, 30, 66, 70, 90])
def test_a_disk_that_fills_up_at_the_last_bytes(missing: int, tmp_path: Path) -> None:
    """A short write raises only at the next one."""
    resource = pytest.importorskip("resource")
    net = nn.Linear(3, 2)
    pg.checkpoint.save(tmp_path / "a.pt", net=net)
    before = (tmp_path / "a.pt").read_bytes()
    limits, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) - missing, limits[1]))
    try:
        with pytest.raises(OSError, match=r"a\.pt could not be written"):
            pg.checkpoint.save(tmp_path / "a.pt", net=net)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert (tmp_path / "a.pt").read_bytes() == before
