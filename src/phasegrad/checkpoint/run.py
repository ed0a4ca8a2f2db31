"""The complete state of a run in one file."""

from __future__ import annotations

import copy
import os
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from phasegrad.checkpoint import archive, random_streams
from phasegrad.checkpoint.compatibility import check_module, check_optimizer
from phasegrad.version import __version__
from phasegrad.writing import checked_path, file_argument

FORMAT = 1
"""Version of the file format; later versions are rejected."""

_SINGLE = (str, bytes, int, float, complex, bool, type(None), torch.dtype, torch.device, torch.Size)
_MAPPINGS = (dict, OrderedDict, Counter, defaultdict)
_COLLECTIONS = (list, tuple, set)


@runtime_checkable
class Stateful(Protocol):
    """An object with a state to save: a net, optimizer, scheduler, gradient scaler or stateful loader."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Load a state."""
        ...


def save(path: str | os.PathLike[str], **parts: Any) -> None:
    """Write a run to one file, atomically.

    The file also contains the states of the random streams of torch (on the CPU and each device in use), numpy and
    Python. It contains neither gradients nor the staged samples of in-memory weights, so save between steps.

    Args:
        path: path of the file; an existing file is replaced once the new one is on the disk.
        parts: parts by names of your choice: objects with ``state_dict`` and ``load_state_dict`` (a net, programmed or
            not, an optimizer, a scheduler, a ``ResumableLoader``), and plain values (a step, a history), which are
            numbers, strings, tensors, and lists and dictionaries of them. Numbers of numpy are saved as Python's.

    Raises:
        TypeError: a part contains a value that cannot be read without running code (``weights_only=True``), or
            ``path`` is no path.
        OSError: the file could not be written, as on a full disk, or ``path`` is a folder, or its folder does not
            exist; an existing file is unchanged.
        KeyboardInterrupt: the user interrupted it; an existing file is unchanged.

    Examples:
        >>> import tempfile, phasegrad as pg
        >>> net = pg.convert(nn.Sequential(nn.Linear(8, 2)), pg.presets.soft_bounds_training())
        >>> optimizer = pg.optim.AnalogSGD(net.parameters(), lr=0.1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/run.pt", net=net, optimizer=optimizer, step=300)
        ...     load(f"{folder}/run.pt", net=net, optimizer=optimizer)["step"]
        300
    """
    file = checked_path(path, "checkpoint.save")
    stateful = {name: part for name, part in parts.items() if isinstance(part, Stateful)}
    content = {
        "phasegrad": __version__,
        "format": FORMAT,
        "kinds": {name: type(part).__name__ for name, part in stateful.items()},
        "states": {name: part.state_dict() for name, part in stateful.items()},
        "values": {name: value for name, value in parts.items() if name not in stateful},
        "random": random_streams.states(),
    }
    for name in parts:
        group = content["states" if name in stateful else "values"]
        group[name] = _as_data(group[name], name)
    archive.write(file, content)


def load(path: str | os.PathLike[str], *, streams: bool = True, **parts: Any) -> dict[str, Any]:
    """Load a run from a file of [`save`][phasegrad.checkpoint.save].

    All parts are checked before any is changed. No code in the file is run (``weights_only=True``).

    Args:
        path: path of the file.
        streams: whether to restore the random streams.
        parts: objects that load the states saved under their names; the file may contain more.

    Returns:
        The plain values by name.

    Raises:
        FileNotFoundError: the file does not exist.
        DamagedError: the file is truncated, damaged, or not a checkpoint.
        ValueError: a newer phasegrad wrote the file, or a part is missing from it or does not fit, because hardware
            (the message lists the fields), layers, optimizer or parameter groups differ. Nothing was loaded.
        TypeError: a part has no ``load_state_dict``.
    """
    file = file_argument(path, "checkpoint.load")
    return load_content(read(file), file, parts, streams)


def read(path: Path) -> dict[str, Any]:
    """Read the content of a file and check its format.

    Raises:
        DamagedError: the file is damaged or not a checkpoint.
        ValueError: the format is a later one.
    """
    content = archive.read(path)
    number = content.get("format")
    if not isinstance(number, int):
        raise archive.DamagedError(f"{path} has a valid sha256, but is not a checkpoint: it states no format")
    if number > FORMAT:
        raise ValueError(
            f"{path} has format {number}, written by phasegrad {content.get('phasegrad')}; phasegrad {__version__} "
            f"reads up to {FORMAT}: pip install --upgrade phasegrad"
        )
    return content


def load_content(content: dict[str, Any], path: Path, parts: dict[str, Any], streams: bool) -> dict[str, Any]:
    """Check the content of a file against all parts, and then load it; see [`load`][phasegrad.checkpoint.load]."""
    for name, part in parts.items():
        _check(content, path, name, part)
    states = content["states"]
    _load_others({p: states[n] for n, p in parts.items() if not isinstance(p, (nn.Module, torch.optim.Optimizer))})
    # Nets first, because an optimizer casts its state to the dtype and device of its parameters.
    for kind in (nn.Module, torch.optim.Optimizer):
        for name, part in parts.items():
            if isinstance(part, kind):
                part.load_state_dict(states[name])
    if streams:  # last, because loading may draw
        random_streams.restore(content["random"])
    return content["values"]


def _check(content: dict[str, Any], path: Path, name: str, part: Any) -> None:
    if not isinstance(part, Stateful):
        raise TypeError(
            f"checkpoint: {name} is of type {type(part).__name__}, which has no load_state_dict; read plain values "
            "from the dictionary that load returns"
        )
    states, kinds = content["states"], content["kinds"]
    if name not in states:
        raise ValueError(f"{path} contains no state of {name}; it has states of: {', '.join(states) or 'nothing'}")
    try:
        if isinstance(part, nn.Module):
            check_module(part, states[name])
        elif type(part).__name__ != kinds[name]:
            raise ValueError(f"its type is {type(part).__name__}, but {kinds[name]} was saved")
        elif isinstance(part, torch.optim.Optimizer):
            check_optimizer(part, states[name])
    except ValueError as error:
        raise ValueError(f"{path} does not fit {name}, so nothing was loaded: {error}") from error


def _load_others(states: dict[Any, Any]) -> None:
    """Load states that cannot be checked in advance; if one raises, restore all."""
    before = {part: copy.deepcopy(part.state_dict()) for part in states}
    try:
        for part, state in states.items():
            part.load_state_dict(state)
    except Exception:
        for part, state in before.items():
            part.load_state_dict(state)
        raise


def _as_data(value: Any, where: str) -> Any:
    """A value with Python numbers in place of numpy's; raise unless it is plain data.

    Subclasses are not plain, because a safe load rejects their class.
    """
    if isinstance(value, Tensor) or type(value) in _SINGLE:
        return value
    if issubclass(type(value), np.generic) and type(value.item()) in _SINGLE:
        return value.item()
    if type(value) in _MAPPINGS:
        found = {_as_data(key, where): _as_data(item, f"{where}[{key!r}]") for key, item in value.items()}
        same = all(mine is key and found[mine] is value[key] for mine, key in zip(found, value, strict=True))
        return value if same else found
    if type(value) in _COLLECTIONS:
        items = [_as_data(item, f"{where}[{index}]") for index, item in enumerate(value)]
        return value if all(mine is item for mine, item in zip(items, value, strict=True)) else type(value)(items)
    else:
        raise TypeError(
            f"checkpoint: {where} is of type {type(value).__name__}, which cannot be read without running code; save "
            "numbers, strings, tensors, and lists and dictionaries of them (vars(...), .tolist(), str(...))"
        )
