"""Checks of the parameters and options that optimizers receive."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from phasegrad import argument_checks as checks


def checked_parameters(caller: str, params: Any) -> list[Any]:
    """The parameters or groups that a user passed.

    Raises:
        TypeError: they are not an iterable of tensors, named tensors or groups.
    """
    rule = "an iterable of parameters or groups, such as net.parameters()"
    if not isinstance(params, Iterable) or isinstance(params, (str, bytes, dict, set, Tensor, nn.Module)):
        raise TypeError(f"{caller}: params = {checks.shown(params)}; it must be {rule}")
    given = list(params)
    if not given:
        raise ValueError(f"{caller}: params is empty, so there is nothing to train; pass net.parameters()")
    for i, item in enumerate(given):
        if not isinstance(item, (Tensor, dict, tuple)):
            raise TypeError(f"{caller}: params[{i}] = {checks.shown(item)}; params must be {rule}")
        if isinstance(item, dict) and "params" not in item:
            raise ValueError(f"{caller}: params[{i}] is a group without 'params'; it has {sorted(map(str, item))}")
    return given


def check_options(caller: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a group, with plain numbers.

    Raises:
        TypeError: an option has a wrong type.
        ValueError: an option is out of range.
    """
    return {name: _CHECKS[name](caller, name, value) for name, value in options.items() if name in _CHECKS}


def check_rate(caller: str, name: str, value: Any) -> Any:
    """Raise unless a rate is finite and not negative; a tensor with one element, which torch accepts, stays one."""
    number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    found = checks.number(caller, name, number, 0.0)
    return value if isinstance(value, Tensor) else found


def _positive(caller: str, name: str, value: Any) -> float:
    return checks.number(caller, name, value, 0.0, above=True)


def _count(caller: str, name: str, value: Any) -> int:
    return checks.integer(caller, name, value, 1)


def _optional(check: Callable[[str, str, Any], Any]) -> Callable[[str, str, Any], Any]:
    return lambda caller, name, value: None if value is None else check(caller, name, value)


_CHECKS: dict[str, Callable[[str, str, Any], Any]] = {
    "lr": check_rate,
    "momentum": check_rate,
    "fast_lr": _optional(_positive),
    "threshold": _optional(_positive),
    "epsilon": _optional(_positive),
    "pulses": _positive,
    "transfer_every": _count,
    "rows": _optional(_count),
    "period": _count,
    "probability": lambda caller, name, value: checks.number(caller, name, value, 0.0, 1.0),
    "averaged": lambda caller, name, value: checks.number(caller, name, value, 0.0, 1.0, above=True),
    "replicated": checks.flag,
}
"""The check of each option by its name."""
