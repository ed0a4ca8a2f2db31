"""Fingerprints of tensors, which tell whether values were written to them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from phasegrad.ops.cpu.calls import call
from phasegrad.ops.direct import is_plain
from phasegrad.ops.lazy_copies import address
from phasegrad.ops.native import library

PARTS = 64
"""Parts of a large tensor, of which a fingerprint contains one."""
_SMALL = 1 << 14
"""Bytes of a tensor that every fingerprint contains whole, as in csrc/fingerprint.cpp."""


def fingerprint(tensors: Sequence[Tensor], part: int | None) -> tuple[int, ...]:
    """A number for the values of tensors, or one for each of them.

    Small tensors count whole, of large ones values at 64 equal distances and one part.

    Args:
        tensors: the tensors.
        part: number of the part, from 0 to 63; ``None`` for the values at equal distances alone.
    """
    if library is None or not all(is_plain(t) and t.is_contiguous() for t in tensors):
        return tuple(_fingerprint(t, part) for t in tensors)
    count = len(tensors)
    addresses = (ctypes.c_void_p * count)(*map(address, tensors))
    found, sizes = ctypes.c_uint64(), (ctypes.c_int64 * count)(*[t.nbytes for t in tensors])
    call("fingerprint", ctypes.byref(found), addresses, sizes, count, -1 if part is None else part)
    return (found.value,)


def _fingerprint(tensor: Tensor, part: int | None) -> int:
    values = tensor.detach().cpu().reshape(-1)
    if values.nbytes <= _SMALL:
        return hash(_bytes(values))
    sampled = _bytes(values[:: len(values) // PARTS])
    if part is None:
        return hash(sampled)
    size = -(-len(values) // PARTS)
    return hash((sampled, _bytes(values[part * size : (part + 1) * size])))


def _bytes(values: Tensor) -> bytes:
    # numpy could write, so torch would copy all values of a tensor that shares its memory; a clone is only a part.
    return values.clone().view(torch.uint8).numpy().tobytes()
