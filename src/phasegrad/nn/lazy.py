"""Lazy layers of torch, which become analog in their first forward pass, when their shape is known."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy as is_uninitialised


def is_lazy(module: nn.Module) -> bool:
    """Whether the shape of a layer is not known before its first forward pass."""
    return isinstance(module, LazyModuleMixin) and any(
        p is not None and is_uninitialised(p) for p in module._parameters.values()
    )


def make_analog_when_initialised(module: nn.Module, make: Callable[[nn.Module], nn.Module]) -> None:
    """Let a lazy layer become its counterpart in its first forward pass, which already computes on the tiles.

    Args:
        module: the lazy layer; changed in place.
        make: function that turns the initialised layer into its counterpart in place and returns it.
    """
    # Torch looks up forward before its hook initialises the layer, so it has to be found on the object.
    vars(module)["forward"] = functools.partial(_first_forward, module, make)


def _first_forward(module: nn.Module, make: Callable[[nn.Module], nn.Module], *inputs: Any, **named: Any) -> Any:
    del vars(module)["forward"]
    return make(module).forward(*inputs, **named)


def becomes_analog(module: nn.Module) -> bool:
    """Whether a lazy layer becomes analog in its first forward pass."""
    forward = vars(module).get("forward")
    return isinstance(forward, functools.partial) and forward.func is _first_forward


def keep_digital(module: nn.Module) -> None:
    """Undo ``make_analog_when_initialised``."""
    if becomes_analog(module):
        del vars(module)["forward"]


def require_initialised(net: nn.Module, caller: str) -> None:
    """Raise ``ValueError`` in the name of ``caller`` if a lazy layer of the net has not become analog yet."""
    lazy = [f"{name or 'the net'} ({type(m).__name__})" for name, m in net.named_modules() if becomes_analog(m)]
    if lazy:
        raise ValueError(
            f"{caller}: the shape of {', '.join(lazy)} is not known before the first forward pass; run the net once "
            "on one batch first"
        )
