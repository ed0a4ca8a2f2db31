"""Weights in the memory that several processes train together.

A dense gradient could be averaged; pulses cannot, as a device makes of two updates something else than of their mean.
So every process gets the samples of all, in the order of the ranks, and the seed of rank 0, and sends its own devices
all of the pulses. What is sent around is inputs and output gradients, which is less than a dense gradient where batches
are smaller than layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from phasegrad.crossbar.streams import draw_seed
from phasegrad.stores.in_memory_weight import InMemoryWeight, Samples

_ALIGNED = 8  # bytes, so that any dtype may begin there


def processes() -> int:
    """How many processes train together: those of torch's default process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def share_devices(weights: Sequence[InMemoryWeight]) -> None:
    """Give all processes the devices of rank 0, and what they hold; a device differs from the next for life."""
    for weight in weights:
        for tensor in (weight.data, *weight.devices.buffers()):
            # Copied, and not received in place: only a copy tells autograd, and who remembers, that it has changed.
            received = tensor.contiguous().clone()
            dist.broadcast(received, src=0)
            tensor.copy_(received)


def common_generator(device: torch.device) -> torch.Generator:
    """A generator of the same state in all processes, which draws from the global one of rank 0 alone."""
    seed = draw_seed(device) if dist.get_rank() == 0 else torch.zeros(1, dtype=torch.int64, device=device)
    dist.broadcast(seed, src=0)
    return torch.Generator().manual_seed(int(seed))


@contextmanager
def gathered(weights: Sequence[InMemoryWeight]) -> Iterator[None]:
    """Inside, each weight has staged what it has in all processes, rank by rank; afterwards, its own again.

    Output gradients are divided by the number of processes, as DDP averages the gradients of digital parameters.
    """
    own = [weight.grad.samples if weight.grad is not None else [] for weight in weights]
    together = _gather(own, weights[0].device)
    before = [weight.replace_staged(samples) for weight, samples in zip(weights, together, strict=True)]
    try:
        yield
    finally:
        for weight, staged in zip(weights, before, strict=True):
            weight.replace_staged(staged)


class _Place(NamedTuple):
    """Where a tensor lies in the bytes of its process."""

    shape: torch.Size
    dtype: torch.dtype
    start: int
    end: int


def _gather(own: list[list[Samples]], device: torch.device) -> list[list[Samples] | None]:
    """The samples of each weight in all processes; ``None`` where none has any. Sizes may differ."""
    places, parts = _pack(own)
    everywhere: list[Any] = [None] * processes()
    dist.all_gather_object(everywhere, places)
    length = max(_length(places) for places in everywhere)
    sent = torch.zeros(length, dtype=torch.uint8, device=device)
    for start, part in parts:
        sent[start : start + len(part)] = part
    received = [torch.empty_like(sent) for _ in everywhere]
    dist.all_gather(received, sent)
    found = [_unpack(places, data) for places, data in zip(everywhere, received, strict=True)]
    joined = [[sample for rank in found for sample in rank[index]] for index in range(len(own))]
    return [samples or None for samples in joined]


def _pack(own: list[list[Samples]]) -> tuple[list[Any], list[tuple[int, Tensor]]]:
    """For each sample its two places and what images are, and the bytes that lie there."""
    places, parts, start = [], [], 0
    for samples in own:
        described = []
        for sample in samples:
            pair = []
            for tensor in (sample.x, sample.d):
                data = tensor.contiguous().reshape(-1).view(torch.uint8)
                parts.append((start, data))
                pair.append(_Place(tensor.shape, tensor.dtype, start, start + len(data)))
                start += -(-len(data) // _ALIGNED) * _ALIGNED
            described.append((*pair, sample.patches))
        places.append(described)
    return places, parts


def _length(places: list[Any]) -> int:
    return max((d.end for samples in places for _, d, _ in samples), default=0)


def _unpack(places: list[Any], data: Tensor) -> list[list[Samples]]:
    def at(place: _Place) -> Tensor:
        return data[place.start : place.end].view(place.dtype).view(place.shape)

    return [[Samples(at(x), at(d) / processes(), patches) for x, d, patches in samples] for samples in places]
