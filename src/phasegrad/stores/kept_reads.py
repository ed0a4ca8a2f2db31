"""What reads of a chip share until it ages.

Drift and the standard deviation of read noise are the same in every read at one age. From the second read on they are
kept: 8 bytes per device, half of what its state takes, for a read in half the time. Where single rows are read, the
moments of the weights are kept instead, 6 bytes per weight. Neither is in the state dict, copied or pickled.

Writes are counted by torch, except those through ``.data`` or numpy. Comparing all values at every read would double
the time of a single row, so tensors of more than 16 KiB are compared at 64 places, and one 64th of them in full at
each read, in turn: a write that torch does not count is noticed by the 64th read at the latest.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from phasegrad.ops.fingerprint import PARTS, fingerprint


class _Known(NamedTuple):
    """Tensors as they were."""

    tensors: tuple[weakref.ref[Tensor], ...]
    versions: tuple[int, ...]
    prints: tuple[tuple[int, ...], ...]
    """The fingerprint with each part, or one without."""

    @classmethod
    def of(cls, tensors: tuple[Tensor, ...], *, by_part: bool) -> _Known:
        prints = tuple(fingerprint(tensors, part) for part in (range(PARTS) if by_part else (None,)))
        return cls(tuple(weakref.ref(t) for t in tensors), tuple(t._version for t in tensors), prints)

    def are(self, tensors: tuple[Tensor, ...], read: int) -> bool:
        """Whether tensors are these, as far as versions and one fingerprint tell."""
        same = len(tensors) == len(self.tensors) and all(
            known() is tensor and version == tensor._version
            for known, version, tensor in zip(self.tensors, self.versions, tensors, strict=True)
        )
        part = read % len(self.prints)
        return same and fingerprint(tensors, part if len(self.prints) > 1 else None) == self.prints[part]


class _Record(NamedTuple):
    kind: str
    known: _Known
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
        if record is not None and not record.known.are(tensors, self._reads):
            record = None
        if record is not None and record.kind == kind and record.value is not None:
            return record.value
        wanted = at_once or (record is not None and record.kind == kind)
        if not wanted and record is not None:
            return None
        with torch.inference_mode(False), torch.no_grad():  # later reads may want gradients
            value = make() if wanted else None
        self._record = _Record(kind, _Known.of(tensors, by_part=wanted), value)
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
