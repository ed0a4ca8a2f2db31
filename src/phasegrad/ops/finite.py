"""A check of many tensors at once."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from phasegrad.ops.cpu.calls import call, pointers
from phasegrad.ops.direct import bypasses, is_plain
from phasegrad.ops.native import library


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether every value is finite; one call for all tensors that the kernels can read."""
    if library is None or not bypasses():
        return all(map(_finite, tensors))
    simple = [t for t in tensors if t.dtype is torch.float32 and is_plain(t) and t.is_contiguous()]
    others = [] if len(simple) == len(tensors) else [t for t in tensors if all(t is not s for s in simple)]
    result, sizes = ctypes.c_int32(), (ctypes.c_int64 * len(simple))(*[t.numel() for t in simple])
    call("finite", ctypes.byref(result), pointers(simple), sizes, len(simple))
    return bool(result.value) and all(map(_finite, others))


def _finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all())
