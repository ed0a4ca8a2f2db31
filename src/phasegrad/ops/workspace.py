"""Memory of matrices as read, kept from one training step to the next.

A matrix as read is as large as the weight and lives from forward to backward. Asked for anew at each step, it and the
weight's gradient make the C library's heap grow and shrink by turns, and the fresh pages cost as much time as all
converters. So a weight that trains keeps the memory of its last read, as an optimiser keeps its momentum; it goes when
the weight goes. What an op needs only while it runs is kept for the thread's next call.
"""

from __future__ import annotations

import logging
import math
import threading

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

_kept = WeakTensorKeyDictionary()  # of each weight, a tensor that only this dictionary holds while it is not in use
_lock = threading.Lock()
_logger = logging.getLogger("phasegrad")


_scratch = threading.local()


def scratch(name: str, dtype: torch.dtype, *shape: int) -> Tensor:
    """Room that an op is done with when it returns: the thread's next call of this name gets the same."""
    count, kept = math.prod(shape), getattr(_scratch, name, None)
    if kept is None or kept.numel() < count:
        with torch.inference_mode(False):  # or it could never be written to outside of it
            kept = torch.empty(count, dtype=dtype)
        setattr(_scratch, name, kept)
    return kept[:count].view(shape)


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


def for_read(weight: Tensor) -> Tensor:
    """Room for a weight as read; a graph that still holds the last one's, as a layer used twice, gets its own."""
    if type(weight) is not nn.Parameter or _FREE is None:
        return weight.detach().new_empty(weight.shape)
    with _lock:
        kept = _kept.get(weight)
        if kept is None or kept.shape != weight.shape:
            kept = _kept[weight] = weight.detach().new_empty(weight.shape)
        elif _holders(kept) != _FREE:
            return weight.detach().new_empty(weight.shape)
        return kept.new_empty(0).set_(kept.untyped_storage(), 0, kept.shape, kept.stride())
