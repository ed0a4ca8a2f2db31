"""Memory that is reused from one training step to the next.

A noisy copy of a weight is as large as the weight, and is needed from the forward to the backward pass. If it is
allocated at each step, it and the weight's gradient make the C library's heap grow and shrink in turn, and the fresh
pages cost as much time as all converters. So the buffer of a trained weight's last read is reused, as an optimizer
keeps its momentum, and released when the weight is freed. Buffers that an op needs only while it runs are kept for the
thread's next call.
"""

from __future__ import annotations

import logging
import math
import threading

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

_kept = (
    WeakTensorKeyDictionary()
)  # for each weight, a tensor that only this dictionary references while it is not in use
_lock = threading.Lock()
_logger = logging.getLogger("phasegrad")


MOST_KEPT = 64 << 20
"""Bytes of buffers that a thread keeps between calls; the least recently used are freed first."""

_scratch = threading.local()


def scratch(name: str, dtype: torch.dtype, *shape: int) -> Tensor:
    """A buffer that an op needs only until it returns: the thread's next call with this name reuses it."""
    count, buffers = math.prod(shape), _scratch.__dict__  # of this thread, in the order of their last use
    kept = buffers.pop(name, None)
    if kept is None or kept.numel() < count:
        del kept
        with torch.inference_mode(False):  # otherwise it could not be written to outside inference mode
            kept = torch.empty(count, dtype=dtype)
        if kept.nbytes > MOST_KEPT:
            return kept.view(shape)
        _make_room(buffers, kept.nbytes)
    buffers[name] = kept
    return kept[:count] if len(shape) == 1 else kept[:count].view(shape)


def scratch_bytes(name: str, size: int) -> Tensor:
    """``scratch`` of ``size`` bytes or more, for a kernel that only needs the address: no view is made."""
    buffers = _scratch.__dict__
    kept = buffers.get(name)
    if kept is None or kept.numel() < size:
        return scratch(name, torch.uint8, size)
    buffers[name] = buffers.pop(name)  # the last one used
    return kept


def _make_room(buffers: dict[str, Tensor], size: int) -> None:
    """Free the buffers of earlier calls until a new one fits; the ops that use them still reference them."""
    total = size + sum(b.nbytes for b in buffers.values())
    while buffers and total > MOST_KEPT:
        total -= buffers.pop(next(iter(buffers))).nbytes


def _holders(tensor: Tensor) -> int:
    return torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)


def _free() -> int | None:
    """The use count of a storage with one tensor; ``None`` if torch does not count as assumed."""
    try:
        tensor = torch.empty(1)
        alone = _holders(tensor)
        view = tensor[:]
        shared = _holders(tensor)
        del view
        if alone == _holders(tensor) < shared:
            return alone
        reason = "a shared storage is reported as free"
    except Exception as error:  # whatever another version of torch may raise
        reason = f"{type(error).__name__}: {error}"
    _logger.warning("phasegrad allocates the memory of noisy weights at each step (%s); correct, but slower", reason)
    return None


_FREE = _free()


def is_alone(tensor: Tensor) -> bool:
    """Whether nothing else, such as a view or a numpy array, holds the memory of a tensor, as far as torch tells."""
    return _FREE is None or _holders(tensor) <= _FREE


def for_read(weight: Tensor) -> Tensor:
    """Memory for a noisy copy of a weight.

    It allocates new memory if a graph still references the last buffer (a layer used twice).
    """
    if type(weight) is not nn.Parameter or _FREE is None:
        return weight.detach().new_empty(weight.shape)
    with _lock:
        kept = _kept.get(weight)
        if kept is None or kept.shape != weight.shape:
            kept = _kept[weight] = weight.detach().new_empty(weight.shape)
        elif _holders(kept) != _FREE:
            return weight.detach().new_empty(weight.shape)
        return kept.new_empty(0).set_(kept.untyped_storage(), 0, kept.shape, kept.stride())
