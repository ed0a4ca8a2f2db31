"""Temporary evaluation mode, and batches as data loaders yield them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


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
