"""Checks that a fine-tuning trains something, before it starts."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from phasegrad.deprecation import users_stack_level
from phasegrad.nn import analog_layers


def check_repeatable(loader: Any) -> None:
    """Raise ``TypeError`` unless several passes over a loader are possible."""
    if isinstance(loader, Iterator):
        raise TypeError(
            f"fine_tune: loader is an iterator ({type(loader).__name__}), which yields its batches once, but "
            "calibration and every epoch pass over them. Pass the data loader or list itself, not iter(loader); wrap a "
            "generator in a class whose __iter__ starts it again"
        )
    if not isinstance(loader, Iterable) and not callable(getattr(type(loader), "__getitem__", None)):
        raise TypeError(f"fine_tune: loader is a {type(loader).__name__}; it must be an iterable of batches")


def check_trainable(net: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
    """Check that an optimizer holds trainable parameters of a net; warn if it holds no weight of an analog layer.

    Raises:
        TypeError: ``optimizer`` is not an optimizer.
        ValueError: every parameter of the net is frozen, or the optimizer holds none that is trainable.
    """
    trainable = {id(p): p for p in net.parameters() if p.requires_grad}
    if not trainable:
        raise ValueError(
            "fine_tune: every parameter of the net is frozen, so nothing would be trained; call requires_grad_(True) "
            "on those to train"
        )
    if optimizer is None:
        return
    if not isinstance(getattr(optimizer, "param_groups", None), list):
        raise TypeError(
            f"fine_tune: optimizer = {optimizer!r}; it must be an optimizer, such as "
            "torch.optim.Adam(net.parameters(), lr=1e-3)"
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not held & trainable.keys():
        raise ValueError(
            f"fine_tune: none of the {len(held)} parameter(s) of the {type(optimizer).__name__} is a trainable "
            "parameter of the net, so nothing would be trained. convert copies the model: create the optimizer after "
            f"it, as torch.optim.{type(optimizer).__name__}(net.parameters(), ...)"
        )
    weights = {id(layer.weight) for layer in analog_layers(net).values()} & trainable.keys()
    if weights and not weights & held:
        warnings.warn(
            f"fine_tune: the {type(optimizer).__name__} holds no weight of an analog layer, so no weight on the "
            "hardware is trained. Create it over net.parameters(), or freeze the weights if this is intended",
            UserWarning,
            stacklevel=users_stack_level(),
        )
