"""Clocks and counters of devices, whose values the host knows without waiting for a GPU.

They are tensors because they belong to the state dict. Decisions of every step depend on them: whether devices have
drifted, which planes are pulsed. The host reads such a tensor once, follows what the functions here do to it, and reads
it again only after others have written it.
"""

from __future__ import annotations

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from phasegrad.ops.host_reads import captured, waits

_known: WeakIdKeyDictionary = WeakIdKeyDictionary()


def number(tensor: Tensor) -> float:
    """The value of a tensor with one element."""
    if not waits(tensor) or tensor.is_inference():
        return tensor.item()
    known = _known.get(tensor)
    if known is None or known[0] != tensor._version:
        known = _known[tensor] = (tensor._version, tensor.item())
    return known[1]


def add(tensor: Tensor, amount: float) -> None:
    """Add to a tensor in place.

    Raises:
        RuntimeError: a CUDA graph is captured, which would repeat what depends on the value.
    """
    if captured(tensor):
        raise RuntimeError(
            "add: an update of in-memory weights depends on the time and on the number of updates, and a CUDA graph "
            "would repeat those of its capture. Capture hardware-aware training and inference, and train in the memory "
            "without a graph"
        )
    known = number(tensor) + amount if waits(tensor) else None
    tensor.add_(amount)
    _note(tensor, known)


def copy(tensor: Tensor, source: Tensor) -> None:
    """Copy a tensor with one element to another in place."""
    known = number(source) if waits(source) else None
    tensor.copy_(source)
    _note(tensor, known)


def _note(tensor: Tensor, value: float | None) -> None:
    if value is not None and not tensor.is_inference():
        _known[tensor] = (tensor._version, value)
