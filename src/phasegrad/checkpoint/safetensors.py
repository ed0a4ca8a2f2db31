"""Nets as safetensors files. Needs safetensors (``pip install phasegrad[integrations]``), imported when it is used."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from phasegrad.checkpoint.archive import DamagedError, replacing
from phasegrad.checkpoint.fit import check_module
from phasegrad.version import __version__

FORMAT = 1
_TIED = "phasegrad.tied"
_FORMAT = "phasegrad.format"


def export_safetensors(net: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a net's state dict, devices and hardware included, as a safetensors file.

    A tensor that has several names (tied weights, shared modules) is written once; the file's metadata says the others.
    The hardware of each layer is the tensor ``configuration``, JSON in uint8.

    Args:
        net: any net: converted, programmed, or trained in the memory.
        path: the file; one that is there is replaced once the new one is on the disk.

    Raises:
        ImportError: safetensors is not installed.
        OSError: the file could not be written; what was there before is as it was.
    """
    kept, tied = _once(net.state_dict())
    metadata = {"format": "pt", "phasegrad": __version__, _FORMAT: str(FORMAT), _TIED: json.dumps(tied)}
    data = _safetensors("torch").save({name: t.cpu().contiguous().clone() for name, t in kept.items()}, metadata)
    with replacing(Path(path)) as sink:
        sink.write(data)


def import_safetensors(net: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load a safetensors file into a net, in place.

    Args:
        net: a net of the same layers and hardware. If it is not programmed and the file is a chip's, it becomes one.
        path: a file of :func:`export_safetensors`, or any with the keys of the net's digital counterpart.

    Raises:
        ImportError: safetensors is not installed.
        FileNotFoundError: there is no such file.
        DamagedError: it is no safetensors file, or cut off.
        ValueError: a newer phasegrad wrote it, or it does not fit: other hardware (the message lists the fields), keys,
            shapes. Nothing was loaded.
    """
    state, metadata = _read(Path(path))
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


def _once(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor under its first name, and the first names of others."""
    first: dict[Any, str] = {}
    kept, tied = {}, {}
    for name, tensor in state.items():
        # Empty tensors have no place in memory by which they could be told apart.
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if tensor.numel() else name
        if place in first:
            tied[name] = first[place]
        else:
            first[place], kept[name] = name, tensor
    return kept, tied


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    library = _safetensors()
    path.stat()  # a file that is missing is no damaged one
    try:
        with library.safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except library.SafetensorError as error:
        raise DamagedError(f"{path} is no safetensors file, or damaged: {error}") from error


def _safetensors(part: str = "") -> Any:
    try:
        return importlib.import_module(f"safetensors.{part}" if part else "safetensors")
    except ImportError as error:
        raise ImportError("safetensors files need safetensors: pip install phasegrad[integrations]") from error
