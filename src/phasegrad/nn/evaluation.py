"""Temporary evaluation mode, and batches as data loaders yield them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence


@contextmanager
def evaluation_mode(net: nn.Module) -> Iterator[None]:
    """Put a net into evaluation mode, and restore the mode of each of its modules afterwards."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def forward_batch(net: nn.Module, batch: Any) -> Any:
    """Run a net on a batch; the first element of a tuple or list is the input."""
    return net(batch[0] if isinstance(batch, (tuple, list)) else batch)


def moved(batch: Any, net: nn.Module) -> Any:
    """A batch with its tensors on the device of a net's first parameter; the batch itself if this is the CPU."""
    first = next(net.parameters(), None)
    return batch if first is None or first.device.type == "cpu" else _moved(batch, first.device)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, (Tensor, PackedSequence)):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: _moved(v, device) for name, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # a named tuple takes its fields one by one
        return type(value)(*(_moved(v, device) for v in value))
    return type(value)(_moved(v, device) for v in value) if isinstance(value, (tuple, list)) else value
