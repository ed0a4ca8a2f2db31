"""Replicas of in-memory weights in several processes.

Dense gradients could be averaged, but pulses cannot: the response of a device to two updates differs from its response
to their mean. Every process therefore gathers the samples of all processes, in the order of the ranks, receives the
seed of rank 0, and sends all pulses to its own devices. The processes exchange inputs and output gradients, which are
smaller than a dense gradient if batches are smaller than layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from phasegrad.crossbar.streams import draw_seed
from phasegrad.stores.in_memory_weight import InMemoryWeight
from phasegrad.stores.staged_gradient import Samples, Staged, same_mask
from phasegrad.stores.written_weights import take_writes_of

_ALIGNMENT = 8  # bytes; a multiple of the size of every dtype


def world_size() -> int:
    """Number of processes in torch's default process group; 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def broadcast_devices(weights: Sequence[InMemoryWeight]) -> None:
    """Copy the devices of rank 0 to all processes, because parameters fixed at fabrication differ per device."""
    take_writes_of(weights)
    for weight in weights:
        for tensor in (weight.memory, *weight.devices.buffers()):
            # Received into a copy, because only copy_ counts as a change for autograd and for cached checks.
            received = tensor.contiguous().clone()
            dist.broadcast(received, src=0)
            tensor.copy_(received)
        weight.mark_current()
        weight.replicated = True


def common_generator(device: torch.device) -> torch.Generator:
    """A generator with the same state in all processes, seeded from the global generator of rank 0."""
    seed = draw_seed(device) if dist.get_rank() == 0 else torch.zeros(1, dtype=torch.int64, device=device)
    dist.broadcast(seed, src=0)
    return torch.Generator().manual_seed(int(seed))


@contextmanager
def gathered(weights: Sequence[InMemoryWeight]) -> Iterator[None]:
    """Within this context, each weight stages the samples of all processes, rank by rank.

    Afterwards the local samples of weights that were not updated, because of an exception, are restored.

    Output gradients are divided by the number of processes, as DDP averages the gradients of digital parameters.

    Raises:
        ValueError: the gradient of a weight has different masks in different processes; nothing was changed.
    """
    before = [weight.pending for weight in weights]
    of_all = [
        None if samples is None else Staged(samples, weight.shape, weight.matrix_layout, mask)
        for weight, (samples, mask) in zip(weights, _gather(before, weights[0].device), strict=True)
    ]
    for weight, staged in zip(weights, of_all, strict=True):
        weight.replace_staged(staged)
    try:
        yield
    finally:
        for weight, local, staged in zip(weights, before, of_all, strict=True):
            untouched = weight.pending is staged and (staged is None or not staged.partly_used)
            weight.replace_staged(local if untouched else None)


class _Slot(NamedTuple):
    """Shape, dtype, and position of a tensor in the bytes of its process."""

    shape: torch.Size
    dtype: torch.dtype
    start: int
    end: int


def _gather(own: list[Staged | None], device: torch.device) -> list[tuple[list[Samples] | None, Tensor | None]]:
    """Samples and mask of each weight in all processes; ``None`` if there are none. Sizes may differ per process."""
    slots, parts = _pack([[] if staged is None else staged.samples for staged in own])
    masks = [None if staged is None or staged.mask is None else staged.mask.cpu() for staged in own]
    of_ranks: list[Any] = [None] * world_size()
    dist.all_gather_object(of_ranks, (slots, masks))
    all_slots, all_masks = zip(*of_ranks, strict=True)
    length = max(_length(slots) for slots in all_slots)
    sent = torch.zeros(length, dtype=torch.uint8, device=device)
    for start, part in parts:
        sent[start : start + len(part)] = part
    received = [torch.empty_like(sent) for _ in all_slots]
    dist.all_gather(received, sent)
    unpacked = [_unpack(slots, data) for slots, data in zip(all_slots, received, strict=True)]
    joined = [[sample for rank in unpacked for sample in rank[index]] for index in range(len(own))]
    common = [_common_mask(index, all_slots, all_masks) for index in range(len(own))]
    return [
        (samples or None, None if mask is None else mask.to(device))
        for samples, mask in zip(joined, common, strict=True)
    ]


def _common_mask(index: int, all_slots: Sequence[Any], all_masks: Sequence[Any]) -> Tensor | None:
    """The mask of the gradient of one weight, which all processes with samples must share."""
    masks = [masks[index] for slots, masks in zip(all_slots, all_masks, strict=True) if slots[index]]
    if not all(same_mask(masks[0], mask) for mask in masks[1:]):
        raise ValueError(
            "the gradient of an in-memory weight has different masks in different processes, but all replicas apply "
            "the same pulses. Use the same mask in all processes"
        )
    return masks[0] if masks else None


def _pack(own: list[list[Samples]]) -> tuple[list[Any], list[tuple[int, Tensor]]]:
    """The slots and patches of every sample, and the bytes of its tensors with their positions."""
    slots, parts, start = [], [], 0
    for samples in own:
        described = []
        for sample in samples:
            pair = []
            for tensor in (sample.x, sample.d):
                data = tensor.contiguous().reshape(-1).view(torch.uint8)
                parts.append((start, data))
                pair.append(_Slot(tensor.shape, tensor.dtype, start, start + len(data)))
                start += -(-len(data) // _ALIGNMENT) * _ALIGNMENT
            described.append((*pair, sample.patches))
        slots.append(described)
    return slots, parts


def _length(slots: list[Any]) -> int:
    return max((d.end for samples in slots for _, d, _ in samples), default=0)


def _unpack(slots: list[Any], data: Tensor) -> list[list[Samples]]:
    def tensor(slot: _Slot) -> Tensor:
        return data[slot.start : slot.end].view(slot.dtype).view(slot.shape)

    return [[Samples(tensor(x), tensor(d) / world_size(), patches) for x, d, patches in samples] for samples in slots]
