"""The lock of a folder of checkpoints, which names the process that writes there."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
import weakref
from pathlib import Path
from typing import Any

from phasegrad.writing import is_alive

NAME = ".lock"


class InUseError(RuntimeError):
    """Another process writes checkpoints into the folder."""


class Lock:
    """The right to write into a folder, which one process has at a time; released when it is garbage or at exit.

    Raises:
        InUseError: another process has it.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / NAME
        self.mine = {**_this_process(), "since": time.strftime("%Y-%m-%d %H:%M:%S"), "key": uuid.uuid4().hex}
        self._acquire()
        self._release = weakref.finalize(self, _remove, self.file, self.mine)

    def check(self) -> None:
        """Acquire the lock again if somebody has deleted its file; raise ``InUseError`` if another process has it."""
        if _read(self.file) != self.mine:
            self._acquire()

    def release(self) -> None:
        """Let another process write."""
        self._release()

    def _acquire(self) -> None:
        other = _read(self.file)
        if other is not None:
            if not _has_died(other):
                raise InUseError(_message(self.file, other))
            _take_over(self.file, other)
        try:
            _create(self.file, self.mine)
        except FileExistsError:  # another process was faster
            raise InUseError(_message(self.file, _read(self.file) or {})) from None


_locks: weakref.WeakValueDictionary[tuple[int, str], Lock] = weakref.WeakValueDictionary()


def lock(folder: Path) -> Lock:
    """The lock of a folder, which all ``Folder`` objects of this process share.

    Raises:
        InUseError: another process has it.
    """
    key = (os.getpid(), str(folder.resolve()))
    found = _locks.get(key)
    if found is None:
        found = _locks[key] = Lock(folder)
    else:
        found.check()
    return found


def other_writer(folder: Path) -> str | None:
    """The process that writes into a folder, in words; ``None`` if there is none, or it is this one."""
    other = _read(folder / NAME)
    if other is None or _has_died(other) or other.get("process") == os.getpid():
        return None
    return _in_words(other)


def _this_process() -> dict[str, Any]:
    number = os.getpid()
    return {"host": socket.gethostname(), "process": number, "started": _started(number), "space": _process_space()}


def _started(process: int) -> str | None:
    """When a process started, which distinguishes it from a later one of the same number; ``None`` if unknown."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return fields[19]  # the 22nd field, in clock ticks since boot
    except (OSError, IndexError):
        return None


def _process_space() -> str | None:
    """The space of process numbers, which differs between containers on one host."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _has_died(other: dict[str, Any]) -> bool:
    """Whether the process that wrote a lock has died, as far as is known: nobody knows it of another host."""
    mine = _this_process()
    process = other.get("process")
    if other.get("host") != mine["host"] or not isinstance(process, int):
        return False
    if other.get("space") != mine["space"]:  # the host was started again, or it is another container
        boots = [str(space).partition(" ")[0] for space in (other.get("space"), mine["space"])]
        return boots[0] != boots[1] and None not in (other.get("space"), mine["space"])
    return not is_alive(process) or _started(process) != other.get("started")


def _read(file: Path) -> dict[str, Any] | None:
    """The content of a lock; empty if it is no lock, ``None`` if there is none."""
    try:
        if file.is_symlink():
            return {}
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _create(file: Path, content: dict[str, Any]) -> None:
    """Create a lock whose content is complete as soon as it exists.

    Raises:
        FileExistsError: there is one.
    """
    whole = file.with_name(f"{NAME}.{content['key']}")
    try:
        whole.write_text(json.dumps(content))
        try:
            os.link(whole, file)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            with file.open("x") as exclusive:
                exclusive.write(json.dumps(content))
    finally:
        whole.unlink(missing_ok=True)


def _take_over(file: Path, dead: dict[str, Any]) -> None:
    """Remove the lock of a process that has died; if another process was faster, keep the new lock."""
    aside = file.with_name(f"{NAME}.{uuid.uuid4().hex}")
    try:
        os.rename(file, aside)
    except FileNotFoundError:
        return
    if _read(aside) != dead:
        with contextlib.suppress(OSError):
            os.link(aside, file)
    aside.unlink(missing_ok=True)


def _remove(file: Path, mine: dict[str, Any]) -> None:
    if mine["process"] == os.getpid() and _read(file) == mine:  # a forked process does not release it
        file.unlink(missing_ok=True)


def _in_words(other: dict[str, Any]) -> str:
    if not other:
        return "an unknown process"
    return f"process {other.get('process')} on {other.get('host')} (since {other.get('since')})"


def _message(file: Path, other: dict[str, Any]) -> str:
    return (
        f"Folder: {file.parent} is in use: {_in_words(other)} writes checkpoints there, so nothing was written. "
        f"Choose another folder, or stop that run. If it has ended and left its lock, delete {file}"
    )
