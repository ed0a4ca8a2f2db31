"""Calls of the C++ kernels through ctypes."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from phasegrad.ops.native import library

CHUNK = 1024
"""Values that a kernel processes at a time, as in csrc/chunks.h."""


def call(name: str, *arguments: Any) -> None:
    getattr(library, f"pg_{name}")(*arguments, torch.get_num_threads())


def all_floats(*tensors: Tensor) -> bool:
    return all(t.dtype == torch.float32 for t in tensors)


def pointers(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*[t.data_ptr() for t in tensors])


def doubles(values: Sequence[float]) -> ctypes.Array[ctypes.c_double]:
    return (ctypes.c_double * len(values))(*values)


def floats_of(values: Sequence[float]) -> ctypes.Array[ctypes.c_float]:
    return _floats(tuple(values))


@functools.lru_cache(maxsize=256)
def _floats(values: tuple[float, ...]) -> ctypes.Array[ctypes.c_float]:
    return (ctypes.c_float * len(values))(*values)


def optional(*tensors: Tensor | None, first: int | None = None) -> list[int | None]:
    return [None if t is None else (t if first is None else t[first]).data_ptr() for t in tensors]
