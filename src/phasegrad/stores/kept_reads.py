"""What reads of a chip share until it ages.

Drift and the standard deviation of read noise are the same in every read at one age. From the second read on they are
kept: 8 bytes per device, half of what its state takes, for a read in half the time. Where single rows are read, the
moments of the weights are kept instead, 6 bytes per weight. Neither is in the state dict, copied or pickled.

Writes are counted by torch, except those through ``.data`` or numpy. Comparing all values at every read would double
the time of a single row, so tensors of more than 4096 values are compared at 64 places, and one 64th of them in full at
each read, in turn: a write that torch does not count is noticed by the 64th read at the latest.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

_PARTS = 64
_SMALL = 4096


class _Known(NamedTuple):
    """A tensor as it was."""

    tensor: weakref.ref[Tensor]
    version: int
    sample: Tensor
    """Values at equal distances; all of a small tensor."""
    sums: tuple[int, ...]
    """The sum of the bits of each part of a large tensor."""


class _Record(NamedTuple):
    kind: str
    known: tuple[_Known, ...]
    value: Any


@final
class KeptReads:
    """One value, computed from tensors and kept until one of them is replaced or written to."""

    def __init__(self) -> None:
        self._record: _Record | None = None  # replaced as a whole, so that threads may read one chip
        self._reads = 0

    def get(self, kind: str, tensors: tuple[Tensor, ...], make: Callable[[], Any], *, at_once: bool) -> Any:
        """The value of a kind.

        Args:
            kind: name of the value. A value that is kept at once takes the place of others.
            tensors: what the value depends on.
            make: computes the value.
            at_once: whether to compute the value already when it is first asked for.

        Returns:
            The value; ``None`` if it is not kept.
        """
        if any(t.is_inference() for t in tensors):  # writes to them are not counted
            return None
        record = self._record
        self._reads += 1
        if record is None or not _unchanged(record.known, tensors, self._reads % _PARTS):
            record = None
        if record is not None and record.kind == kind and record.value is not None:
            return record.value
        wanted = at_once or (record is not None and record.kind == kind)
        if not wanted and record is not None:
            return None
        with torch.inference_mode(False), torch.no_grad():  # later reads may want gradients
            value = make() if wanted else None
        self._record = _Record(kind, tuple(_known(tensor, with_sums=wanted) for tensor in tensors), value)
        return value

    def clear(self) -> None:
        """Forget the value."""
        self._record = None

    def __deepcopy__(self, memo: dict[int, Any]) -> KeptReads:
        """A copy that keeps nothing."""
        return KeptReads()

    def __reduce__(self) -> Any:
        """Pickle nothing that is kept."""
        return KeptReads, ()


def _known(tensor: Tensor, *, with_sums: bool) -> _Known:
    large = with_sums and tensor.numel() > _SMALL
    sums = tuple(int(_part(tensor, i).sum()) for i in range(_PARTS)) if large else ()
    return _Known(weakref.ref(tensor), tensor._version, _sample(tensor).clone(), sums)


def _unchanged(known: tuple[_Known, ...], tensors: tuple[Tensor, ...], part: int) -> bool:
    """Whether tensors are the known ones, as far as versions, samples and one part of each tell."""
    return len(known) == len(tensors) and all(
        k.tensor() is tensor
        and k.version == tensor._version
        and torch.equal(k.sample, _sample(tensor))
        and (not k.sums or k.sums[part] == int(_part(tensor, part).sum()))
        for k, tensor in zip(known, tensors, strict=True)
    )


def _sample(tensor: Tensor) -> Tensor:
    step = tensor.numel() // _PARTS if tensor.numel() > _SMALL else 1
    return tensor.detach().reshape(-1)[::step]


def _part(tensor: Tensor, index: int) -> Tensor:
    """The bits of one part of the values as integers, whose sum is exact; those of 64 bits are summed faster."""
    values = tensor.detach().reshape(-1)
    aligned = values.nbytes % 8 == 0 and values.storage_offset() * values.element_size() % 8 == 0
    bits = values.view(torch.int64 if aligned else torch.uint8)
    size = -(-len(bits) // _PARTS)
    return bits[index * size : (index + 1) * size]
