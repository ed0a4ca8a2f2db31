"""Copies that share memory until either is written to.

An aged chip has the conductances and drift exponents of the chip that it was made from, and its digital parameters.
Torch can copy a tensor on the first write, to it or to its original, so that a chip is a value all the same: whatever
writes in place, a user, ``load_state_dict`` or an optimizer, writes to one chip alone.

Torch copies as soon as a pointer is asked for that could be written to. Kernels therefore pass the ``address`` of what
they only read. ``works`` tries this private part of torch when this module is imported; if it does not behave as
assumed, tensors are copied at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from phasegrad.ops.workspace import is_alone

_WORTH = 1 << 12  # elements from which on sharing is worth its bookkeeping
_data_address: Callable[[Tensor], int] = getattr(torch._C, "_data_address", Tensor.data_ptr)  # of the storage
_logger = logging.getLogger("phasegrad")


def _failure() -> str | None:
    try:
        original = torch.zeros(2, device="cpu")
        copied = torch._lazy_clone(original)
        if _data_address(copied) != _data_address(original):
            return "a lazy copy does not share memory"
        if _data_address(original[1:]) != _data_address(original):
            return "an address includes the offset of a view"
        copied.add_(1.0)
        if original.tolist() != [0.0, 0.0] or copied.tolist() != [1.0, 1.0]:
            return "a write to a lazy copy reaches the original"
        copied = torch._lazy_clone(original)
        original.add_(1.0)
        return None if copied.tolist() == [0.0, 0.0] else "a write to the original reaches a lazy copy"
    except Exception as error:  # whatever another version of torch may raise
        return f"{type(error).__name__}: {error}"


def works() -> bool:
    """Whether torch copies on write as this module assumes."""
    reason = _failure()
    if reason is not None:
        _logger.warning("phasegrad copies whole chips when they age (%s); correct, but larger", reason)
    return reason is None


_WORKS = works()


def address(tensor: Tensor) -> int:
    """The address of values that are only read."""
    if not _WORKS:
        return tensor.data_ptr()
    return _data_address(tensor) + int(tensor.storage_offset()) * tensor.element_size()


def shareable(tensor: Tensor) -> bool:
    """Whether ``lazy_copy`` shares memory: a large tensor on the CPU that has its storage to itself."""
    return (
        _WORKS
        and type(tensor) in (Tensor, nn.Parameter)
        and tensor.is_leaf
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and tensor.numel() >= _WORTH
        and not tensor.is_inference()
        and is_alone(tensor)  # a numpy array would write to all copies
        and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    )


@torch.no_grad()
def lazy_copy(tensor: Tensor) -> Tensor:
    """A copy that shares the memory of a ``shareable`` tensor until either is written to."""
    try:
        copied = torch._lazy_clone(tensor.detach())
    except RuntimeError:  # memory that torch did not allocate, such as a mapped file
        copied = tensor.detach().clone()
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(copied, requires_grad=tensor.requires_grad)
    return copied
