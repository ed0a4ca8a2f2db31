"""One file on a disk: there whole or not at all, and known to be sound before it is read.

The file is what ``torch.save`` writes, a zip archive, and ``torch.load(path, weights_only=True)`` reads it. Torch does
not look at the archive's own checksums, so a sha256 of all of it is the archive's comment.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

_SEAL = b"sha256="
_LENGTH = len(_SEAL) + 64
_NO_COMMENT = (0).to_bytes(2, "little")  # how an archive without a comment ends: with the comment's length
_COMMENT = _LENGTH.to_bytes(2, "little") + _SEAL


class DamagedError(ValueError):
    """A file is no checkpoint, or no longer the one that was written."""


class Sink:
    """A file that is written to, with the number and the digest of its bytes.

    After a failure it goes on counting, so that the error can say how many bytes were needed; and torch's C++ meets no
    exception half way.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.size, self.digest = file, 0, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write some bytes."""
        view = memoryview(data).cast("B")
        self.size += len(view)
        self.digest.update(view)
        self.attempt(lambda: self._write_all(view))
        return len(view)

    def _write_all(self, view: memoryview) -> None:
        """Unbuffered files take what fits, and only then say that the disk is full."""
        while len(view):
            view = view[self.file.write(view) :]

    def flush(self) -> None:
        """Nothing: the file is flushed once, at its end."""

    def seal(self) -> None:
        """Give the archive its digest."""
        comment = _COMMENT + self.digest.hexdigest().encode()
        self.size += _LENGTH
        self.attempt(lambda: (self.file.seek(-len(_NO_COMMENT), os.SEEK_END), self._write_all(memoryview(comment))))

    def attempt(self, act: Any) -> None:
        """Do something to the file, unless something failed before."""
        if self.error is None:
            try:
                act()
            except OSError as error:
                self.error = error


@contextmanager
def replacing(path: Path) -> Iterator[Sink]:
    """A new file beside ``path``, which takes its place once all of it is on the disk.

    Killed at any moment, there is either the old file or the new one. The name of the new one is always the same, so
    that the next attempt overwrites what a killed one left; a file has one writer at a time.

    Raises:
        OSError: it could not be written; the old file is as it was, and nothing is left of the new one.
    """
    beside = path.with_name(f".{path.name}.writing")
    try:
        with open(beside, "wb", buffering=0) as file:
            sink = Sink(file)
            yield sink
            sink.attempt(lambda: os.fsync(file.fileno()))
        if sink.error is not None:
            beside.unlink()
            raise _explained(path, sink)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _keep_name(path.parent)


def _explained(path: Path, sink: Sink) -> OSError:
    assert sink.error is not None
    free = shutil.disk_usage(path.parent).free
    return OSError(
        sink.error.errno,
        f"{path} could not be written ({sink.error.strerror}): {sink.size:,} bytes are needed, {free:,} are free "
        "there. What was there before is as it was; make room, or write elsewhere",
    )


def _keep_name(folder: Path) -> None:
    """Names are the folder's, which is written to the disk by itself."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write(path: Path, content: dict[str, Any]) -> None:
    """Write an archive; see :func:`replacing`."""
    with replacing(path) as sink:
        torch.save(content, sink)  # type: ignore[arg-type]
        sink.seal()


def read(path: Path) -> dict[str, Any]:
    """What :func:`write` wrote, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it is not what was written there.
    """
    _check_seal(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DamagedError(f"{path} is sealed, but holds no checkpoint: {error}") from error
    if not isinstance(content, dict):
        raise DamagedError(f"{path} is sealed, but holds no checkpoint: a {type(content).__name__}")
    return content


def _check_seal(path: Path) -> None:
    size = path.stat().st_size - len(_NO_COMMENT) - _LENGTH
    if size <= 0:
        raise DamagedError(f"{path} has {path.stat().st_size} bytes, too few for a checkpoint")
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while size > 0 and (part := file.read(min(size, 1 << 20))):
            digest.update(part)
            size -= len(part)
        comment = file.read()
    digest.update(_NO_COMMENT)
    if not comment.startswith(_COMMENT):
        raise DamagedError(
            f"{path} is cut off, or was not written by phasegrad.checkpoint.save: it does not end with a sha256"
        )
    if comment != _COMMENT + digest.hexdigest().encode():
        raise DamagedError(f"{path} is damaged: its sha256 is not the one that it was written with")
