"""Nets as safetensors files. Requires safetensors (``pip install phasegrad[integrations]``), imported on first use."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from phasegrad import argument_checks as checks
from phasegrad.checkpoint.archive import DamagedError
from phasegrad.checkpoint.compatibility import check_module
from phasegrad.version import __version__
from phasegrad.writing import checked_path, file_argument, replace_atomically

FORMAT = 1
_TIED = "phasegrad.tied"
_FORMAT = "phasegrad.format"


def export_safetensors(net: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a net's state dict, devices and hardware included, as a safetensors file.

    A tensor with several names (tied weights, shared modules) is written once; the metadata lists its other names. The
    tensor ``configuration`` of each layer contains its hardware as JSON in uint8.

    Args:
        net: any net: converted, programmed, or trained in memory.
        path: path of the file; an existing file is replaced once the new one is on the disk.

    Raises:
        ImportError: safetensors is not installed.
        OSError: the file could not be written; an existing file is unchanged.
    """
    checks.module("export_safetensors", "net", net)
    file = checked_path(path, "export_safetensors")
    first, tied = _deduplicate(net.state_dict())
    metadata = {"format": "pt", "phasegrad": __version__, _FORMAT: str(FORMAT), _TIED: json.dumps(tied)}
    data = _safetensors("torch").save({name: t.cpu().contiguous().clone() for name, t in first.items()}, metadata)
    with replace_atomically(file) as sink:
        sink.write(data)


def import_safetensors(net: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load a safetensors file into a net, in place.

    Args:
        net: a net with the same layers and hardware. A net that is not programmed becomes a chip if the file has one.
        path: path of a file of ``export_safetensors``, or of any file with the keys of the digital net.

    Raises:
        ImportError: safetensors is not installed.
        FileNotFoundError: the file does not exist.
        DamagedError: the file is truncated or not a safetensors file.
        ValueError: a newer phasegrad wrote the file, or it does not fit, because hardware (the message lists the
            fields), keys or shapes differ. Nothing was loaded.
    """
    checks.module("import_safetensors", "net", net)
    state, metadata = _read(file_argument(path, "import_safetensors"))
    number = int(metadata.get(_FORMAT, FORMAT))
    if number > FORMAT:
        raise ValueError(
            f"{path} has format {number}, written by phasegrad {metadata.get('phasegrad')}; phasegrad {__version__} "
            f"reads up to {FORMAT}: pip install --upgrade phasegrad"
        )
    state.update({name: state[first] for name, first in json.loads(metadata.get(_TIED, "{}")).items()})
    try:
        check_module(net, state)
    except ValueError as error:
        raise ValueError(f"{path} does not fit the net, so nothing was loaded: {error}") from error
    net.load_state_dict(state)


def _deduplicate(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor by its first name, and the first name of every other name."""
    names: dict[Any, str] = {}
    first, tied = {}, {}
    for name, tensor in state.items():
        # Empty tensors have no storage that identifies them.
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if tensor.numel() else name
        if place in names:
            tied[name] = names[place]
        else:
            names[place], first[name] = name, tensor
    return first, tied


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    library = _safetensors()
    path.stat()  # raises FileNotFoundError
    try:
        with library.safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except library.SafetensorError as error:
        raise DamagedError(f"{path} is damaged, or not a safetensors file: {error}") from error


def _safetensors(part: str = "") -> Any:
    try:
        return importlib.import_module(f"safetensors.{part}" if part else "safetensors")
    except ImportError as error:
        raise ImportError(
            "safetensors is required for safetensors files: pip install phasegrad[integrations]"
        ) from error
