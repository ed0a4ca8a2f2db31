"""Checkpoint files: written atomically, and verified before they are read.

A file is a zip archive of ``torch.save``, which ``torch.load(path, weights_only=True)`` reads. Torch does not verify
the checksums of the archive, so its comment contains a sha256 of the whole file.
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
_NO_COMMENT = (0).to_bytes(2, "little")  # the length field that ends an archive without a comment
_COMMENT = _LENGTH.to_bytes(2, "little") + _SEAL


class DamagedError(ValueError):
    """A file is not a checkpoint, or was changed after it was written."""


class Sink:
    """A file open for writing, with the count and digest of the bytes written.

    After a failure, it ignores data but keeps counting, so that the error can report how many bytes were needed and no
    exception passes through torch's C++ code.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.size, self.digest = file, 0, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all bytes of a buffer."""
        view = memoryview(data).cast("B")
        self.size += len(view)
        self.digest.update(view)
        self.attempt(lambda: self._write_all(view))
        return len(view)

    def _write_all(self, view: memoryview) -> None:
        """Write until all is written: an unbuffered write on a full disk may be short before one raises."""
        while len(view):
            view = view[self.file.write(view) :]

    def flush(self) -> None:
        """Do nothing; the file is flushed once, at the end."""

    def seal(self) -> None:
        """Append the digest as the comment of the archive."""
        comment = _COMMENT + self.digest.hexdigest().encode()
        self.size += _LENGTH
        self.attempt(lambda: (self.file.seek(-len(_NO_COMMENT), os.SEEK_END), self._write_all(memoryview(comment))))

    def attempt(self, act: Any) -> None:
        """Run a file operation and record its error, unless an earlier one failed."""
        if self.error is None:
            try:
                act()
            except OSError as error:
                self.error = error


@contextmanager
def replace_atomically(path: Path) -> Iterator[Sink]:
    """Write a temporary file next to ``path``, and rename it to ``path`` once all of it is on the disk.

    If the process is killed at any moment, ``path`` is either the old file or the new one. The name of the temporary
    file is fixed, so that the next attempt overwrites the remains of a killed one; a file must have a single writer.

    Raises:
        OSError: the file could not be written; the old file is unchanged, and the temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.writing")
    try:
        with open(temporary, "wb", buffering=0) as file:
            sink = Sink(file)
            yield sink
            sink.attempt(lambda: os.fsync(file.fileno()))
        if sink.error is not None:
            temporary.unlink()
            raise _write_error(path, sink)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _write_error(path: Path, sink: Sink) -> OSError:
    assert sink.error is not None
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


def write(path: Path, content: dict[str, Any]) -> None:
    """Write an archive; see ``replace_atomically``."""
    with replace_atomically(path) as sink:
        torch.save(content, sink)  # type: ignore[arg-type]
        sink.seal()


def read(path: Path) -> dict[str, Any]:
    """Verify and read the content of an archive of ``write``, with all tensors on the CPU.

    Raises:
        FileNotFoundError: the file does not exist.
        DamagedError: the file is not an archive of ``write``, or was changed.
    """
    _check_seal(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DamagedError(f"{path} has a valid sha256, but is not a checkpoint: {error}") from error
    if not isinstance(content, dict):
        raise DamagedError(f"{path} has a valid sha256, but is not a checkpoint: it contains {type(content).__name__}")
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
            f"{path} is truncated, or was not written by phasegrad.checkpoint.save: it does not end with a sha256"
        )
    if comment != _COMMENT + digest.hexdigest().encode():
        raise DamagedError(f"{path} is damaged: its sha256 differs from the one stored in it")
