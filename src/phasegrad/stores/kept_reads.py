"""What reads of a chip share until it ages.

Drift and the standard deviation of read noise are the same in every read at one age. From the second read on they are
kept: 8 bytes per device, half of what its state takes, for a read in half the time. Where single rows are read, the
moments of the weights are kept instead, 8 bytes per weight. Neither is in the state dict, copied or pickled.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

Versions = tuple[tuple["weakref.ref[Tensor]", int, Tensor], ...]
"""Tensors with their versions and a sample of their values: writes through ``.data`` or numpy have no version."""

_SAMPLES = 64


class _Record(NamedTuple):
    kind: str
    versions: Versions
    value: Any


@final
class KeptReads:
    """One value, computed from tensors and kept until one of them is replaced or written to."""

    def __init__(self) -> None:
        self._record: _Record | None = None  # replaced as a whole, so that threads may read one chip

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
        if record is None or not _unchanged(record.versions, tensors):
            record = None
        if record is not None and record.kind == kind and record.value is not None:
            return record.value
        wanted = at_once or (record is not None and record.kind == kind)
        if not wanted and record is not None:
            return None
        with torch.inference_mode(False), torch.no_grad():  # later reads may want gradients
            value = make() if wanted else None
        self._record = _Record(kind, tuple((weakref.ref(t), t._version, _sample(t)) for t in tensors), value)
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


def _unchanged(versions: Versions, tensors: tuple[Tensor, ...]) -> bool:
    return len(versions) == len(tensors) and all(
        known() is tensor and version == tensor._version and torch.equal(sample, tensor.reshape(-1)[:: _step(tensor)])
        for (known, version, sample), tensor in zip(versions, tensors, strict=True)
    )


def _step(tensor: Tensor) -> int:
    return max(1, tensor.numel() // _SAMPLES)


def _sample(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1)[:: _step(tensor)].clone()
