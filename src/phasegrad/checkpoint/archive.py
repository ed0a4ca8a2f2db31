"""Checkpoint files: written atomically, and verified before they are read.

A file is a zip archive of ``torch.save``, which ``torch.load(path, weights_only=True)`` reads. Torch does not verify
the checksums of the archive, so its comment contains a sha256 of the whole file.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from phasegrad.writing import Sink, replace_atomically

_SEAL = b"sha256="
_LENGTH = len(_SEAL) + 64
_NO_COMMENT = (0).to_bytes(2, "little")  # the length field that ends an archive without a comment
_COMMENT = _LENGTH.to_bytes(2, "little") + _SEAL


class DamagedError(ValueError):
    """A file is not a checkpoint, or was changed after it was written."""


def _seal(sink: Sink) -> None:
    """Append the digest as the comment of the archive."""
    comment = _COMMENT + sink.digest.hexdigest().encode()
    sink.size += _LENGTH
    sink.replace_end(len(_NO_COMMENT), comment)


def write(path: Path, content: dict[str, Any]) -> None:
    """Write an archive; see ``replace_atomically``."""
    with replace_atomically(path) as sink:
        torch.save(content, sink)  # type: ignore[arg-type]
        _seal(sink)


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
