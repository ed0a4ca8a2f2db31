"""Checks of the constructors of analog layers, which take the arguments of their digital counterparts."""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from phasegrad import argument_checks as checks
from phasegrad.crossbar import Hardware


def counterpart(owner: object, make: Callable[..., nn.Module], hardware: Hardware, **arguments: Any) -> nn.Module:
    """Create the digital counterpart of a layer under construction.

    Args:
        owner: the analog layer.
        make: the class of the digital counterpart.
        hardware: the layer's hardware, which is checked first.
        arguments: arguments of ``make``.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument is out of range, or torch refuses the combination.
    """
    caller = type(owner).__name__
    checks.instance(caller, "hardware", hardware, Hardware, of="a phasegrad.Hardware")
    checked = {name: _CHECKS[name](caller, name, value) for name, value in arguments.items()}
    defaults = {name: p.default for name, p in inspect.signature(make).parameters.items()}
    return checks.refused(caller, lambda: make(**checked), checked, defaults)


def _size(caller: str, name: str, value: object) -> int:
    return checks.integer(caller, name, value, 0)


def _count(caller: str, name: str, value: object) -> int:
    return checks.integer(caller, name, value, 1)


def _optional(check: Callable[[str, str, Any], Any]) -> Callable[[str, str, Any], Any]:
    return lambda caller, name, value: None if value is None else check(caller, name, value)


def _flag(caller: str, name: str, value: object) -> bool:
    # Torch takes numbers for its flags, and models say bias=0.
    if isinstance(value, numbers.Integral) and value in (0, 1):
        return bool(value)
    return checks.flag(caller, name, value)


def _spatial(caller: str, name: str, value: Any) -> int | tuple[int, ...]:
    """A number, or one for each spatial dimension."""
    low = 0 if name in ("padding", "output_padding") else 1
    rule = f"an integer of at least {low}, or a tuple with one for each spatial dimension"
    if isinstance(value, (tuple, list)):
        return tuple(checks.integer(caller, f"{name}[{i}]", v, low) for i, v in enumerate(value))
    return checks.integer(caller, name, value, low, of=rule)


def _padding(caller: str, name: str, value: Any) -> str | int | tuple[int, ...]:
    # Torch lists the strings that it knows.
    return value if isinstance(value, str) else _spatial(caller, name, value)


def _probability(caller: str, name: str, value: object) -> float:
    return checks.number(caller, name, value, 0.0, 1.0)


def _device(caller: str, name: str, value: Any) -> Any:
    if value is None or isinstance(value, torch.device):
        return value
    if isinstance(value, (str, numbers.Integral)) and not isinstance(value, bool):
        return checks.refused(caller, lambda: torch.device(value), {name: value}, {})  # type: ignore[arg-type]
    raise TypeError(f"{caller}: {name} = {checks.shown(value)}; it must be a torch.device, such as 'cpu', or None")


def _dtype(caller: str, name: str, value: Any) -> Any:
    if value is None or (isinstance(value, torch.dtype) and value.is_floating_point):
        return value
    raise TypeError(f"{caller}: {name} = {checks.shown(value)}; it must be a floating-point torch.dtype or None")


_SIZES = (
    "in_features", "out_features", "in_channels", "out_channels", "num_embeddings", "embedding_dim", "input_size",
    "proj_size", "nf", "nx",
)  # fmt: skip
_COUNTS = ("groups", "hidden_size", "embed_dim", "num_heads")
_FLAGS = (
    "bias", "batch_first", "bidirectional", "scale_grad_by_freq", "sparse", "add_bias_kv", "add_zero_attn",
)  # fmt: skip

_CHECKS: dict[str, Callable[[str, str, Any], Any]] = {
    **dict.fromkeys(_SIZES, _size),
    **dict.fromkeys(_COUNTS, _count),
    **dict.fromkeys(_FLAGS, _flag),
    **dict.fromkeys(("kernel_size", "stride", "dilation", "output_padding"), _spatial),
    "num_layers": lambda caller, name, value: checks.integer(caller, name, value, 1, 65_536),
    "padding": _padding,
    "padding_mode": lambda caller, name, value: checks.instance(caller, name, value, str, of="a string"),
    "nonlinearity": lambda caller, name, value: checks.choice(caller, name, value, ("tanh", "relu")),
    "dropout": _probability,
    "padding_idx": _optional(lambda caller, name, value: checks.integer(caller, name, value, -(2**62))),
    "max_norm": _optional(checks.number),
    "norm_type": lambda caller, name, value: checks.number(caller, name, value, 0.0, above=True),
    "kdim": _optional(_count),
    "vdim": _optional(_count),
    "device": _device,
    "dtype": _dtype,
}
"""The check of each argument by its name, which is the same in all layers."""
