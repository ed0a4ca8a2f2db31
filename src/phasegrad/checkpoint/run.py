"""All that a run is, in one file."""

from __future__ import annotations

import copy
import os
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from phasegrad.checkpoint import archive, randomness
from phasegrad.checkpoint.fit import check_module, check_optimizer
from phasegrad.version import __version__

FORMAT = 1
"""Number of the layout; a file of a higher one is refused."""

_SINGLE = (str, bytes, int, float, complex, bool, type(None), torch.dtype, torch.device, torch.Size)
_MAPPINGS = (dict, OrderedDict, Counter, defaultdict)
_COLLECTIONS = (list, tuple, set)


@runtime_checkable
class Stateful(Protocol):
    """What knows its own state: nets, optimizers, schedulers, gradient scalers, stateful loaders."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Take a state over."""
        ...


def save(path: str | os.PathLike[str], **parts: Any) -> None:
    """Write a run into one file, which appears whole or not at all.

    Beside the parts the file holds the states of the random streams: torch's on the CPU and on each device in use,
    numpy's and Python's. Gradients are not in it, staged samples of weights in the memory neither: save between steps.

    Args:
        path: the file; one that is there is replaced once the new one is on the disk.
        parts: by names of your own, whatever has a ``state_dict`` and a ``load_state_dict`` (a net, programmed or not,
            an optimizer, a scheduler, a :class:`ResumableLoader`), and plain values (a step, a history): numbers,
            strings, tensors, and lists and dictionaries of them.

    Raises:
        TypeError: a part holds something that cannot be read back without running code (``weights_only=True``).
        OSError: the file could not be written, as on a full disk; what was there before is as it was.

    Examples:
        >>> import tempfile, phasegrad as pg
        >>> net = pg.convert(nn.Sequential(nn.Linear(8, 2)), pg.presets.soft_bounds_training())
        >>> optimizer = pg.optim.AnalogSGD(net.parameters(), lr=0.1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/run.pt", net=net, optimizer=optimizer, step=300)
        ...     load(f"{folder}/run.pt", net=net, optimizer=optimizer)["step"]
        300
    """
    stateful = {name: part for name, part in parts.items() if isinstance(part, Stateful)}
    content = {
        "phasegrad": __version__,
        "format": FORMAT,
        "kinds": {name: type(part).__name__ for name, part in stateful.items()},
        "states": {name: part.state_dict() for name, part in stateful.items()},
        "values": {name: value for name, value in parts.items() if name not in stateful},
        "random": randomness.streams(),
    }
    for name in parts:
        _check_data(content["states" if name in stateful else "values"][name], name)
    archive.write(Path(path), content)


def load(path: str | os.PathLike[str], *, streams: bool = True, **parts: Any) -> dict[str, Any]:
    """Take a run over from a file that :func:`save` wrote.

    Everything is looked at before anything is changed. No code in the file is run (``weights_only=True``).

    Args:
        path: the file.
        streams: whether the random streams are put back too.
        parts: what takes over the states that were saved under these names; the file may hold more.

    Returns:
        The plain values by name.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: the file is cut off, damaged, or something else.
        ValueError: a newer phasegrad wrote it, a part is not in it, or does not fit: other hardware (the message lists
            the fields), other layers, another optimizer or other groups. Nothing was loaded.
        TypeError: a part cannot take a state over.
    """
    return take_over(read(Path(path)), Path(path), parts, streams)


def read(path: Path) -> dict[str, Any]:
    """The content of a file that is sound, and of a layout that is known.

    Raises:
        DamagedError: it is not sound, or not a checkpoint.
        ValueError: the layout is a newer one.
    """
    content = archive.read(path)
    number = content.get("format")
    if not isinstance(number, int):
        raise archive.DamagedError(f"{path} is sealed, but holds no checkpoint: it says no format")
    if number > FORMAT:
        raise ValueError(
            f"{path} has format {number}, written by phasegrad {content.get('phasegrad')}; phasegrad {__version__} "
            f"reads up to {FORMAT}: pip install --upgrade phasegrad"
        )
    return content


def take_over(content: dict[str, Any], path: Path, parts: dict[str, Any], streams: bool) -> dict[str, Any]:
    """Check what was read against all parts, and then load it; see :func:`load`."""
    for name, part in parts.items():
        _check(content, path, name, part)
    states = content["states"]
    _load_others({p: states[n] for n, p in parts.items() if not isinstance(p, (nn.Module, torch.optim.Optimizer))})
    for kind in (nn.Module, torch.optim.Optimizer):  # an optimizer's state is cast as its parameters are
        for name, part in parts.items():
            if isinstance(part, kind):
                part.load_state_dict(states[name])
    if streams:  # last, whatever loading has drawn
        randomness.restore(content["random"])
    return content["values"]


def _check(content: dict[str, Any], path: Path, name: str, part: Any) -> None:
    if not isinstance(part, Stateful):
        raise TypeError(
            f"checkpoint: {name} is a {type(part).__name__}, without load_state_dict; plain values are in what load "
            "returns"
        )
    states, kinds = content["states"], content["kinds"]
    if name not in states:
        raise ValueError(f"{path} holds no state of {name}; it holds those of {', '.join(states) or 'nothing'}")
    try:
        if isinstance(part, nn.Module):
            check_module(part, states[name])
        elif type(part).__name__ != kinds[name]:
            raise ValueError(f"it is a {type(part).__name__}, and was a {kinds[name]} when it was saved")
        elif isinstance(part, torch.optim.Optimizer):
            check_optimizer(part, states[name])
    except ValueError as error:
        raise ValueError(f"{path} does not fit {name}, so nothing was loaded: {error}") from error


def _load_others(states: dict[Any, Any]) -> None:
    """Load what cannot be looked at beforehand; if one refuses, all are as they were."""
    before = {part: copy.deepcopy(part.state_dict()) for part in states}
    try:
        for part, state in states.items():
            part.load_state_dict(state)
    except Exception:
        for part, state in before.items():
            part.load_state_dict(state)
        raise


def _check_data(value: Any, where: str) -> None:
    """Subclasses are refused too: pickle would name their class, which a safe load does not know."""
    if isinstance(value, Tensor) or type(value) in _SINGLE:
        return
    if type(value) in _MAPPINGS:
        for key, held in value.items():
            _check_data(key, where)
            _check_data(held, f"{where}[{key!r}]")
    elif type(value) in _COLLECTIONS:
        for index, held in enumerate(value):
            _check_data(held, f"{where}[{index}]")
    else:
        raise TypeError(
            f"checkpoint: {where} is a {type(value).__name__}, which could not be read back without running code; save "
            "numbers, strings, tensors, and lists and dictionaries of them (vars(...), .tolist(), str(...))"
        )
