"""Errors that only the device can see, raised without making the host wait.

A kernel that finds values that an update refuses sets a flag, and the update leaves everything as it is. The flag
travels to the host beside the work that follows, and the first op that may refuse after it has arrived raises. A device
assertion would be simpler, and end the process's use of the GPU.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from phasegrad.ops import pulses, trains
from phasegrad.ops.arguments import StepLaw
from phasegrad.ops.host_reads import captured

Message = Callable[[int, int], str]
"""What a flag's two numbers mean."""

_under_way: list[tuple[Tensor, torch.cuda.Event, Message]] = []
_checked_tables: WeakIdKeyDictionary = WeakIdKeyDictionary()
_limits: WeakIdKeyDictionary = WeakIdKeyDictionary()


def start(device: torch.device) -> Tensor:
    """A flag for an update that begins now: 0, and a second number for its message.

    Raises:
        ValueError: an earlier update was refused.
    """
    flag = torch.zeros(2, dtype=torch.int64, device=device)
    while _under_way and not captured(flag) and _under_way[0][1].query():  # a query would end the capture of a graph
        host, _, message = _under_way.pop(0)
        _raise_if(host, message)
    return flag


def finish(flag: Tensor, message: Message) -> None:
    """Watch a flag that the kernels launched so far may set.

    Raises:
        ValueError: the flag is set, where the device is the CPU.
    """
    if flag.device.type != "cuda":
        _raise_if(flag, message)
        return
    if captured(flag):
        return  # a replay runs no Python, so that its refused updates change nothing and raise nothing
    host = torch.empty(flag.shape, dtype=flag.dtype, pin_memory=True)
    host.copy_(flag, non_blocking=True)
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(flag.device))
    _under_way.append((host, event, message))


def _raise_if(flag: Tensor, message: Message) -> None:
    first, second = (int(n) for n in flag.numpy())
    if first:
        raise ValueError(message(first, second))


def not_finite(first: int, second: int) -> str:
    return trains.NOT_FINITE


def check_tables(law: StepLaw) -> None:
    """``pulses.check_tables``, which waits for the device, once for each tensor of coefficients."""
    coefficients = law.coefficients
    if _checked_tables.get(coefficients) != coefficients._version:
        pulses.check_tables(law)
        _checked_tables[coefficients] = coefficients._version


def largest_count(parameters: Tensor, law: StepLaw) -> Tensor:
    """The most pulses that a device may receive at once, int64 ``[1]`` on the device.

    It takes a pass over the parameters, which do not change after fabrication.
    """
    key = (parameters._version, *law.planes)
    known = _limits.get(parameters)
    if known is None or known[0] != key:
        known = (key, pulses.largest_count(parameters, law).reshape(1))
        if not captured(parameters):  # where it is computed only when the graph is replayed
            _limits[parameters] = known
    return known[1]
