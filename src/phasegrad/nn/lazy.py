"""Lazy layers of torch, which become analog in their first forward pass, when their shape is known."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy as is_uninitialised

from phasegrad.crossbar import Hardware

RANGES = ("input_range", "output_range")
"""Names of the parameters that a lazy layer which will be analog may have besides those of torch."""


def is_lazy(module: nn.Module) -> bool:
    """Whether the shape of a layer is not known before its first forward pass."""
    return isinstance(module, LazyModuleMixin) and any(
        p is not None and is_uninitialised(p) for p in module._parameters.values()
    )


def make_analog_when_initialised(
    module: nn.Module, hardware: Hardware, make: Callable[[nn.Module], nn.Module]
) -> None:  # fmt: skip
    """Let a lazy layer become its counterpart in its first forward pass, which already computes on the tiles.

    The learned ranges of its converters are parameters of the layer at once, so that optimizers created before the
    first pass train them.

    Args:
        module: the lazy layer; changed in place.
        hardware: the hardware of the counterpart.
        make: function that turns the initialised layer into its counterpart in place and returns it.
    """
    keep_digital(module)  # it may have been converted before
    parameters = [parameter for parameter in module._parameters.values() if parameter is not None]
    trained = any(parameter.requires_grad for parameter in parameters)
    factory: dict[str, Any] = {"dtype": parameters[0].dtype, "device": parameters[0].device}
    for name, start in hardware.learned_ranges.items():
        value = torch.full((1,), start, **factory)
        module.register_parameter(name, nn.Parameter(value, trained))
    module.register_load_state_dict_pre_hook(_keep_ranges)
    # Torch looks up forward before its hook initialises the layer, so it has to be found on the object.
    vars(module)["forward"] = functools.partial(_first_forward, module, make)


def _first_forward(module: nn.Module, make: Callable[[nn.Module], nn.Module], *inputs: Any, **named: Any) -> Any:
    ranges = _end(module)
    layer = make(module)
    for name, parameter in ranges.items():
        layer.register_parameter(name, parameter)
    return layer.forward(*inputs, **named)


def _end(module: nn.Module) -> dict[str, nn.Parameter]:
    """Make a layer an ordinary lazy one again; return the learned ranges that it had."""
    del vars(module)["forward"]
    hooks = module._load_state_dict_pre_hooks
    for key in [key for key, hook in hooks.items() if getattr(hook, "hook", None) is _keep_ranges]:
        del hooks[key]
    found = {name: module._parameters.pop(name, None) for name in RANGES}
    return {name: parameter for name, parameter in found.items() if parameter is not None}


def _keep_ranges(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Add the ranges to a float checkpoint, which has none, as analog layers do."""
    for name in RANGES:
        if module._parameters.get(name) is not None:
            state_dict.setdefault(prefix + name, module._parameters[name])


def becomes_analog(module: nn.Module) -> bool:
    """Whether a lazy layer becomes analog in its first forward pass."""
    forward = vars(module).get("forward")
    return isinstance(forward, functools.partial) and forward.func is _first_forward


def keep_digital(module: nn.Module) -> None:
    """Undo ``make_analog_when_initialised``."""
    if becomes_analog(module):
        _end(module)


def require_initialised(net: nn.Module, caller: str) -> None:
    """Raise ``ValueError`` in the name of ``caller`` if a lazy layer of the net has not become analog yet."""
    lazy = [f"{name or 'the net'} ({type(m).__name__})" for name, m in net.named_modules() if becomes_analog(m)]
    if lazy:
        raise ValueError(
            f"{caller}: the shape of {', '.join(lazy)} is not known before the first forward pass; run the net once "
            "on one batch first"
        )
