"""Temporary evaluation mode, and batches as data loaders yield them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
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
    """Run a net on a batch; the first element of a tuple or list is the input; see ``run``."""
    return run(net, moved(batch[0] if isinstance(batch, (tuple, list)) else batch, net))


def run(net: nn.Module, x: Any) -> Any:
    """Run a net on an input, which is passed as keywords if it is a dictionary of those that the net takes."""
    named = keywords(net, x) if isinstance(x, Mapping) else None
    return net(x) if named is None else net(**named)


def keywords(net: nn.Module, batch: Mapping[Any, Any]) -> dict[str, Any] | None:
    """The entries of a batch as keywords, without ``labels`` if the net takes none; ``None`` if it takes others."""
    for named in (dict(batch), {name: value for name, value in batch.items() if name != "labels"}):
        signature = signature_of(net)
        if all(isinstance(name, str) for name in named) and (signature is None or binds(signature, **named)):
            return named
    return None


def binds(signature: inspect.Signature, *arguments: Any, **named: Any) -> bool:
    """Whether a function of this signature takes these arguments."""
    try:
        signature.bind(*arguments, **named)
    except TypeError:
        return False
    return True


def signature_of(net: nn.Module) -> inspect.Signature | None:
    """The signature of the forward method of a net, below wrappers that pass everything on; ``None`` without one."""
    while isinstance(net, (DataParallel, DistributedDataParallel)):
        net = net.module
    try:
        return inspect.signature(getattr(net, "_orig_mod", net).forward)
    except (TypeError, ValueError):
        return None


def moved(batch: Any, net: nn.Module) -> Any:
    """A batch with its tensors on the device of a net's first parameter; the batch itself if this is the CPU."""
    first = next(net.parameters(), None)
    return batch if first is None or first.device.type == "cpu" else _moved(batch, first.device)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, (Tensor, PackedSequence)):
        return value.to(device)  # type: ignore[call-overload]
    if isinstance(value, Mapping):
        return {name: _moved(v, device) for name, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # a named tuple takes its fields one by one
        return type(value)(*(_moved(v, device) for v in value))
    return type(value)(_moved(v, device) for v in value) if isinstance(value, (tuple, list)) else value
