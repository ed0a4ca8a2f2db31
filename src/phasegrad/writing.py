"""Files that are written completely or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from phasegrad import argument_checks as checks

_SUFFIX = ".writing"


class Sink:
    """A file open for writing, with the count and digest of the bytes written.

    After a failure, it ignores data but keeps counting, so that the error can report how many bytes were needed and no
    exception passes through torch's C++ code.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.size, self.digest = file, 0, hashlib.sha256()
        self.error: BaseException | None = None

    def write(self, data: Any) -> int:
        """Write all bytes of a buffer."""
        view = memoryview(data).cast("B")
        self.size += len(view)
        if self.error is None:
            self.digest.update(view)
        self.attempt(lambda: self._write_all(view))
        return len(view)

    def _write_all(self, view: memoryview) -> None:
        """Write until all is written: an unbuffered write on a full disk may be short before one raises."""
        while len(view):
            view = view[self.file.write(view) :]

    def replace_end(self, length: int, data: bytes) -> None:
        """Write over the last ``length`` bytes of the file; the digest and the count ignore it."""
        self.attempt(lambda: (self.file.seek(-length, os.SEEK_END), self._write_all(memoryview(data))))

    def flush(self) -> None:
        """Do nothing; the file is flushed once, at the end."""

    def attempt(self, act: Any) -> None:
        """Run a file operation and record its error, unless an earlier one failed."""
        if self.error is None:
            try:
                act()
            except OSError as error:
                self.error = error


def file_argument(path: Any, caller: str) -> Path:
    """An argument as the path of a file, which need not exist.

    Raises:
        TypeError: it is no path, or empty.
        OSError: it is a folder.
    """
    file = checks.path(caller, "path", path)
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, f"{caller}: path is a folder; add the name of a file", str(path))
    return file


def checked_path(path: Any, caller: str) -> Path:
    """The path of a file to write.

    Raises:
        TypeError: it is no path, or empty.
        OSError: it is a folder, or its folder does not exist.
    """
    file = file_argument(path, caller)
    if not file.parent.is_dir():
        what = "is not a folder" if file.parent.exists() else "does not exist"
        kind = NotADirectoryError if file.parent.exists() else FileNotFoundError
        raise kind(
            errno.ENOTDIR if file.parent.exists() else errno.ENOENT,
            f"{caller}: the folder {str(file.parent)!r} {what}; create it first, or choose another path",
            str(path),
        )
    return file


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file completely or not at all; see ``replace_atomically``. A link is followed to its file.

    What is no file, such as ``/dev/stdout``, is written to directly.
    """
    data, path = content.encode() if isinstance(content, str) else content, path.resolve()
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    with replace_atomically(path) as sink:
        sink.write(data)


@contextmanager
def replace_atomically(path: Path) -> Iterator[Sink]:
    """Write a temporary file next to ``path``, and rename it to ``path`` once all of it is on the disk.

    If the process is killed at any moment, ``path`` is either the old file or the new one. Each process and thread has
    a temporary file of its own, and the next write to ``path`` removes those of processes of this machine that have
    died. A link at ``path`` is replaced, not followed. An interrupt (Ctrl-C) ends the writing and is raised
    afterwards, because an exception that passes through torch's C++ code would become another one.

    Raises:
        OSError: the file could not be written; the old file is unchanged, and the temporary file is removed.
        KeyboardInterrupt: the same, because the user interrupted it.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "this is no file, and cannot be replaced by one", str(path))
    remove_remains(path.parent, path.name)
    temporary = path.with_name(f".{path.name[:100]}.{_writer()}-{threading.get_ident()}{_SUFFIX}")
    try:
        with _create(temporary) as file:
            sink = Sink(file)
            with _interrupts_recorded(sink):
                yield sink
                sink.attempt(lambda: os.fsync(file.fileno()))
        if isinstance(sink.error, OSError):
            temporary.unlink()
            raise _write_error(path, sink)
        if sink.error is not None:
            raise sink.error
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _create(path: Path) -> IO[bytes]:
    """Create a file that did not exist; a link of its name is removed, not followed."""
    path.unlink(missing_ok=True)  # what an earlier process of the same number left
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, 0o666), "wb", buffering=0)


@contextmanager
def _interrupts_recorded(sink: Sink) -> Iterator[None]:
    """Record what the handlers of signals raise as the error of a sink, instead of raising it."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread runs handlers
        yield
        return

    def recording(handler: Callable[..., Any]) -> Callable[..., None]:
        def record(number: int, frame: Any) -> None:
            try:
                handler(number, frame)
            except BaseException as error:
                sink.error = sink.error or error

        return record

    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in found.items() if callable(handler)}
    try:
        for number, handler in before.items():
            signal.signal(number, recording(handler))
        yield
    finally:
        for number, handler in reversed(before.items()):  # an interrupt can be raised again after the last of them
            signal.signal(number, handler)


def remove_remains(folder: Path, name: str = "") -> None:
    """Remove temporary files of processes of this machine that have died, all of them or those of one file."""
    for file in folder.glob(f".*{_SUFFIX}"):
        *start, writer = file.name.removesuffix(_SUFFIX).split(".")
        machine, _, numbers = writer.rpartition("@")
        process, _, thread = numbers.partition("-")
        mine = machine == _machine() and process.isdigit() and thread.isdigit()
        if mine and (not name or ".".join(start) == f".{name[:100]}") and not is_alive(int(process)):
            with suppress(OSError):
                file.unlink()


def is_alive(process: int) -> bool:
    """Whether a process of this machine is running, or may be."""
    if os.name == "nt":  # there, signal 0 would interrupt the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _machine() -> str:
    """The name of this machine without dots, which separate the parts of a temporary file's name."""
    return socket.gethostname().replace(".", "_").replace("/", "_")[:64]


def _writer() -> str:
    return f"{_machine()}@{os.getpid()}"


def _write_error(path: Path, sink: Sink) -> OSError:
    assert isinstance(sink.error, OSError)
    free = shutil.disk_usage(path.parent).free
    return OSError(
        sink.error.errno,
        f"{path} could not be written ({sink.error.strerror}): {sink.size:,} bytes are needed, {free:,} are free "
        "there. Any previous file is unchanged; free disk space, or choose another path",
    )


def _sync_directory(folder: Path) -> None:
    """Flush a directory to the disk, because it stores the names of its files."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
