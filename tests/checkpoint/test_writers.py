"""Two writers in one folder, links and foreign entries, and writes that the user interrupts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import phasegrad as pg
from phasegrad import writing
from phasegrad.checkpoint import Folder, InUseError, archive, lock

SCRIPT = Path(__file__).with_name("two_writers.py")


def dead_process() -> int:
    """The number of a process that has ended."""
    return int(subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True).stdout)


def write_lock(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    content = {**lock._this_process(), "since": "2026-01-02 03:04:05", "key": "k", **changes}
    (folder / lock.NAME).write_text(json.dumps(content))
    return folder / lock.NAME


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file() and file.name != lock.NAME}


@pytest.mark.slow
def test_two_trainings_in_one_folder_damage_no_file_and_the_second_is_told(tmp_path: Path) -> None:
    folder, pipe = tmp_path / "run", subprocess.PIPE
    runs = [
        subprocess.Popen([sys.executable, str(SCRIPT), str(folder), "100", value], stdout=pipe, stderr=pipe, text=True)
        for value in ("1", "2")
    ]
    while len(list(tmp_path.glob("ready-*"))) < 2 and all(run.poll() is None for run in runs):
        time.sleep(0.01)
    (tmp_path / "go").touch()
    outputs = [run.communicate(timeout=100.0) for run in runs]
    codes = [run.returncode for run in runs]
    assert sorted(codes) == [0, 3], outputs
    first, second = runs[codes.index(0)], codes.index(3)
    assert f"process {first.pid} on " in outputs[second][0]
    assert f"delete {folder / lock.NAME}" in outputs[second][0]
    store, net = Folder(folder), nn.Linear(3, 2)
    assert [file.name for file in store.files()] == ["step-000000100.pt", "step-000000099.pt"]
    for file in store.files():
        pg.checkpoint.load(file, net=net)
        assert bool((net.weight == codes.index(0) + 1.0).all())
    assert sorted(file.name for file in folder.iterdir()) == ["step-000000099.pt", "step-000000100.pt"]
    store.save(101, net=net)  # the lock ended with its process


def test_the_lock_names_the_other_writer_and_nothing_is_written(tmp_path: Path) -> None:
    Folder(tmp_path).save(1, x=1)
    other = os.getppid()
    file = write_lock(tmp_path, process=other, started=lock._started(other))
    before = content(tmp_path)
    store = Folder(tmp_path)
    assert store.resume() == {"step": 1, "x": 1}  # reading is no writing
    with pytest.raises(InUseError, match=rf"process {other} on .* \(since 2026-01-02 03:04:05\).*delete {file}"):
        store.save(2, x=2)
    assert content(tmp_path) == before
    file.unlink()
    store.save(2, x=2)


@pytest.mark.parametrize(
    "changes",
    [{"process": "dead"}, {"started": "another time"}, {"space": "an earlier boot pid:[1]"}],
    ids=["dead process", "number used again", "before the last boot"],
)
def test_the_lock_of_a_dead_process_is_taken_over(changes: dict[str, Any], tmp_path: Path) -> None:
    if "process" in changes:
        changes = {"process": dead_process()}
    elif lock._process_space() is None:
        pytest.skip("this system does not tell")
    write_lock(tmp_path, **changes)
    Folder(tmp_path).save(1, x=1)
    assert sorted(file.name for file in tmp_path.iterdir()) in ([lock.NAME, "step-000000001.pt"], ["step-000000001.pt"])


@pytest.mark.parametrize("other", ["another host", "damaged", "link"])
def test_a_lock_that_cannot_be_judged_is_kept(other: str, tmp_path: Path) -> None:
    file = write_lock(tmp_path, host="elsewhere", process=dead_process())
    if other == "damaged":
        file.write_bytes(b"\x00{")
    if other == "link":
        file.rename(tmp_path / "target")
        file.symlink_to(tmp_path / "target")
    with pytest.raises(InUseError, match=rf"(on elsewhere|an unknown process).*delete {file}"):
        Folder(tmp_path).save(1, x=1)
    assert not list(tmp_path.glob("*.pt"))


def test_a_folder_is_free_once_its_objects_are_gone_or_closed(tmp_path: Path) -> None:
    first, second = Folder(tmp_path), Folder(tmp_path)
    first.save(1, x=1)
    second.resume()
    second.save(2, x=2)  # the same process
    del first
    assert (tmp_path / lock.NAME).exists()
    second.close()
    assert not (tmp_path / lock.NAME).exists()
    second.save(3, x=3)
    assert (tmp_path / lock.NAME).exists()
    del second
    assert not (tmp_path / lock.NAME).exists()


def test_a_process_whose_lock_was_taken_writes_no_more(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    store.save(1, x=1)
    other = os.getppid()
    write_lock(tmp_path, process=other, started=lock._started(other))
    with pytest.raises(InUseError, match=f"process {other}"):
        store.save(2, x=2)
    assert [file.name for file in store.files()] == ["step-000000001.pt"]


def test_links_and_foreign_entries_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere.pt"
    store = Folder(folder)
    store.save(1, x=1)
    pg.checkpoint.save(elsewhere, x=5, step=5)
    (folder / "step-000000005.pt").symlink_to(elsewhere)
    (folder / "step-000000006.pt").symlink_to(tmp_path / "nothing")
    (folder / "step-000000007.pt").mkdir()
    (folder / "step-99999999999999999999.pt").write_text("of another program")
    resumed = Folder(folder)
    assert resumed.resume() == {"x": 1, "step": 1}
    for name in ("step-000000005.pt", "step-000000006.pt", "step-000000007.pt", "step-99999999999999999999.pt"):
        assert name in caplog.text
    resumed.save(5, x=6)  # in place of the link, not through it
    assert pg.checkpoint.load(elsewhere)["x"] == 5
    assert not (folder / "step-000000005.pt").is_symlink()
    with pytest.raises(IsADirectoryError, match="a folder has its name"):
        resumed.save(7, x=7)
    assert (folder / "step-000000006.pt").is_symlink()  # only checkpoints are deleted


def test_a_temporary_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    name = f".a.pt.{writing._writer()}-{threading.get_ident()}.writing"
    (tmp_path / name).symlink_to(victim)
    pg.checkpoint.save(tmp_path / "a.pt", x=1)
    assert victim.read_text() == "mine"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.pt", "victim"]


def test_remains_of_dead_processes_are_removed_and_those_of_others_kept(tmp_path: Path) -> None:
    machine, dead = writing._machine(), dead_process()
    gone = [f".step-000000009.pt.{machine}@{dead}-1.writing", f".step-000000001.pt.{machine}@{dead}-7.writing"]
    kept = [
        f".step-000000009.pt.{machine}@{os.getppid()}-1.writing", f".step-000000009.pt.elsewhere@{dead}-1.writing",
        ".mine.writing",
    ]  # fmt: skip
    for name in (*gone, *kept):
        (tmp_path / name).write_bytes(b"part")
    store = Folder(tmp_path)
    store.save(1, x=1)
    assert sorted(file.name for file in tmp_path.glob(".*.writing")) == sorted(kept)


@pytest.mark.parametrize("after", [0, 1, 3, 8])
def test_an_interrupted_save_raises_keyboard_interrupt_and_keeps_the_last_checkpoint(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal arrives while torch's C++ code calls back to write."""
    store, net = Folder(tmp_path), nn.Linear(30, 20)
    store.save(1, net=net)
    before, write, calls = content(tmp_path), writing.Sink.write, []

    def interrupted(sink: writing.Sink, data: Any) -> int:
        calls.append(1)
        if len(calls) == after + 1:
            signal.raise_signal(signal.SIGINT)
        return write(sink, data)

    monkeypatch.setattr(writing.Sink, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.save(2, net=net)
    assert len(calls) > after + 1  # torch's writer came to its end
    assert content(tmp_path) == before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()
    store.save(2, net=net)
    assert Folder(tmp_path).resume(net=net) == {"step": 2}


def test_a_handler_that_does_not_raise_lets_the_save_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, seen = writing.Sink.write, []

    def interrupted(sink: writing.Sink, data: Any) -> int:
        if not seen:
            signal.raise_signal(signal.SIGINT)
        return write(sink, data)

    monkeypatch.setattr(writing.Sink, "write", interrupted)
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        pg.checkpoint.save(tmp_path / "a.pt", x=1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]
    assert pg.checkpoint.load(tmp_path / "a.pt") == {"x": 1}


@pytest.mark.slow
# An interrupt between the opening of a file and its with statement leaves the file to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupts_at_random_moments(tmp_path: Path) -> None:
    """A process that is interrupted 40 times while it saves in a loop; every one comes out as KeyboardInterrupt."""
    code = (
        "import sys, torch, phasegrad as pg\n"
        "store, step, seen = pg.checkpoint.Folder(sys.argv[1]), 0, 0\n"
        "print('ready', flush=True)\n"
        "while seen < 40:\n"
        "    try:\n"
        "        while True:\n"
        "            step += 1\n"
        "            store.save(step, x=torch.ones(20000))\n"
        "    except KeyboardInterrupt:\n"
        "        seen += 1\n"
        "        print(seen, flush=True)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    drawn = np.random.default_rng(0)
    for expected in ("ready", *map(str, range(1, 41))):
        assert run.stdout.readline().strip() == expected
        time.sleep(0.02 + 0.03 * drawn.random())  # the process is in its loop again
        if expected != "40":
            run.send_signal(signal.SIGINT)
    assert run.wait(30.0) == 0
    assert not list(tmp_path.glob(".*"))
    assert Folder(tmp_path).resume() is not None
    for file in Folder(tmp_path).files():
        archive.read(file)


def test_threads_that_write_one_file_do_not_mix(tmp_path: Path) -> None:
    def write(value: float) -> None:
        for _ in range(20):
            pg.checkpoint.save(tmp_path / "a.pt", x=torch.full((2000,), value))

    threads = [threading.Thread(target=write, args=(float(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = pg.checkpoint.load(tmp_path / "a.pt")["x"]
    assert bool((found == found[0]).all())
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("path", [None, 3, b"a.pt", ["a"], ""])
def test_what_is_no_path_is_refused_by_name(path: Any, tmp_path: Path) -> None:
    for call in (
        lambda: pg.checkpoint.save(path, x=1), lambda: pg.checkpoint.load(path), lambda: Folder(path),
        lambda: pg.checkpoint.export_safetensors(nn.Linear(2, 2), path),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=r"path = .*it must"):
            call()


def test_a_folder_in_place_of_a_file_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match=r"checkpoint\.save: path is a folder; add the name of a file"):
        pg.checkpoint.save(tmp_path, x=1)
    with pytest.raises(IsADirectoryError, match=r"checkpoint\.load: path is a folder"):
        pg.checkpoint.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"the folder '.*none' does not exist; create it first"):
        pg.checkpoint.save(tmp_path / "none" / "a.pt", x=1)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="path is a file"):
        Folder(tmp_path / "file")
    with pytest.raises(NotADirectoryError, match="is not a folder"):
        pg.checkpoint.save(tmp_path / "file" / "a.pt", x=1)


def test_numbers_of_numpy_are_saved_as_numbers(tmp_path: Path) -> None:
    values = {"loss": np.float32(0.5), "steps": [np.int64(3), 4], "best": {np.int64(1): np.bool_(True)}, "pair": (1, 2)}
    store = Folder(tmp_path, keep=np.int64(2))
    store.save(np.int64(7), **values)
    expected = {"loss": 0.5, "steps": [3, 4], "best": {1: True}, "pair": (1, 2), "step": 7}
    assert store.resume() == expected
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=np.float64(0.1))
    loader = pg.checkpoint.ResumableLoader(range(8), np.int64(4), seed=np.int64(1))
    pg.checkpoint.save(tmp_path / "a.pt", optimizer=optimizer, loader=loader)
    pg.checkpoint.load(tmp_path / "a.pt", optimizer=optimizer, loader=loader)
    for wrong in (True, 1.0, "1", None):
        with pytest.raises((TypeError, ValueError), match=rf"Folder: step = {wrong!r}; it must be an integer"):
            store.save(wrong)
        with pytest.raises((TypeError, ValueError), match=rf"ResumableLoader: seed = {wrong!r}; it must be an integer"):
            pg.checkpoint.ResumableLoader(range(8), 4, seed=wrong)
