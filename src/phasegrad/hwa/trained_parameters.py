"""Checks that a fine-tuning trains something, before it starts."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from phasegrad import argument_checks as checks
from phasegrad.deprecation import users_stack_level
from phasegrad.hwa.recipe import Recipe
from phasegrad.nn import analog_layers


def check_repeatable(loader: Any) -> None:
    """Raise ``TypeError`` unless several passes over a loader are possible."""
    if isinstance(loader, Iterator):
        raise TypeError(
            f"fine_tune: loader is an iterator ({type(loader).__name__}), which yields its batches once, but "
            "calibration and every epoch pass over them. Pass the data loader or list itself, not iter(loader); wrap a "
            "generator in a class whose __iter__ starts it again"
        )


def check_parts(
    loss: Any, forward: Any, evaluate: Any, recipe: Any, optimizer: Any, scheduler: Any, teacher: Any,
    checkpoints: Any,
) -> None:  # fmt: skip
    """Raise unless the parts of a fine-tuning are of the kinds that it uses; ``None`` is a default.

    Raises:
        TypeError: a part is of another kind.
        ValueError: the scheduler belongs to another optimizer.
    """
    caller = "fine_tune"
    checks.function(caller, "loss", loss, "(output, target) -> scalar", modules=True)
    if forward is not None:
        checks.function(caller, "forward", forward, "(net, batch) -> loss or (output, target)")
    if evaluate is not None:
        checks.function(caller, "evaluate", evaluate, "net -> number")
    if recipe is not None:
        checks.instance(caller, "recipe", recipe, Recipe)
    if teacher is not None:
        checks.module(caller, "teacher", teacher)
    for name, part, method in (("scheduler", scheduler, "step"), ("checkpoints", checkpoints, "resume")):
        if part is not None and (isinstance(part, type) or not callable(getattr(part, method, None))):
            of = "a learning-rate scheduler" if name == "scheduler" else "a store of checkpoints, such as Folder(path)"
            raise TypeError(f"{caller}: {name} = {checks.shown(part)}; it must be {of}, with a method {method}")
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise TypeError(
            f"{caller}: scheduler = a ReduceLROnPlateau, whose step needs a metric; it must be a learning-rate "
            "scheduler that is stepped after each batch without one"
        )
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise ValueError(
            f"{caller}: scheduler = a {type(scheduler).__name__} of another optimizer, so it would schedule nothing; "
            "pass its optimizer too, as optimizer="
        )


def check_trainable(net: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
    """Check that an optimizer holds trainable parameters of a net; warn if it holds no weight of an analog layer.

    Raises:
        TypeError: ``optimizer`` is not an optimizer, or its step needs a closure.
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
    if _needs_closure(optimizer):
        raise TypeError(
            f"fine_tune: optimizer = a {type(optimizer).__name__}, whose step needs a closure that computes the loss "
            "several times, each time with other noise; pass an optimizer with one step per backward pass, such as "
            "torch.optim.Adam(net.parameters(), lr=1e-3), or write your own loop after pg.hwa.calibrate(net, loader)"
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


def _needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step needs an argument, as that of L-BFGS; the class tells, since schedulers replace the method."""
    try:
        inspect.signature(type(optimizer).step).bind(optimizer)
    except TypeError:
        return True
    except ValueError:  # some built-in functions have no signature
        return False
    return False
