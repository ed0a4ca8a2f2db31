"""Checks of the fields of a configuration, made once per class from its type annotations.

Every field has a type that JSON restores: a number, a string, ``True`` or ``False``, ``None``, a tuple of these, or a
configuration. Numbers of numpy and torch are no such types, and are converted first.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import types
import typing
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch

_PLAIN = frozenset((float, int, bool, str, type(None)))


class Check(NamedTuple):
    """What a field accepts."""

    accepts: Callable[[Any], bool]
    """Whether a value is accepted."""
    rule: str
    """The rule as it completes "it must be ..."."""
    passed: set[type]
    """Types all of whose values have turned out to be accepted."""


def plain(value: Any) -> Any:
    """A number of numpy or torch as Python's, and a list or an array as a tuple; any other value unchanged."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, (tuple, list)):
        if type(value) is tuple and all(type(item) in _PLAIN for item in value):
            return value
        return tuple(plain(item) for item in value)
    if isinstance(value, (np.generic, np.ndarray, torch.Tensor)) and not _has_no_values(value):
        return plain(value.tolist())  # a Python number for a scalar
    return value


def _has_no_values(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_meta


def field_checks(kind: type, configuration: type) -> dict[str, Check]:
    """The check of each field of a dataclass that its ``__init__`` sets.

    Args:
        kind: the dataclass.
        configuration: the base class of configurations.
    """
    return {
        field.name: _check(_annotation(kind, field), configuration) for field in dataclasses.fields(kind) if field.init
    }


def refuse(kind: type, name: str, value: Any, rule: str) -> NoReturn:
    """Raise on a value that breaks the rule of a field.

    Raises:
        ValueError: the value is NaN, or a tuple that contains it.
        TypeError: the value has another type.
    """
    shown = repr(value)
    shown = shown if len(shown) <= 100 else f"{shown[:97]}..."
    advice = ""
    if isinstance(value, type):
        advice = f", and this is a class: create an object, {value.__name__}(...)"
    elif isinstance(value, types.FunctionType):
        advice = f", and this is a function: call it, {value.__name__}(...)"
    message = f"{kind.__name__}: {name} = {shown} ({type(value).__name__}); it must be {rule}{advice}"
    raise ValueError(message) if _has_nan(value) else TypeError(message)


def _annotation(kind: type, field: dataclasses.Field[Any]) -> Any:
    """The type of a field; ``Any`` if its name cannot be found, as in a class that a function defines."""
    if not isinstance(field.type, str):
        return field.type
    owner = next(base for base in kind.__mro__ if field.name in vars(base).get("__annotations__", {}))
    names = {**vars(typing), **vars(sys.modules.get(owner.__module__, typing))}
    try:
        return eval(field.type, names, dict(vars(owner)))
    except Exception:
        return Any


def _made(accepts: Callable[[Any], bool], rule: str) -> Check:
    return Check(accepts, rule, set())


def _check(kind: Any, configuration: type) -> Check:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is float:
        return _made(_is_number, "a number")
    if kind is int:
        return _made(lambda value: type(value) is int, "an integer")
    if kind is bool:
        return _made(lambda value: type(value) is bool, "bool")
    if kind is str:
        return _made(lambda value: isinstance(value, str), "a string")
    if kind in (None, type(None)):
        return _made(lambda value: value is None, "None")
    if origin in (typing.Union, types.UnionType):
        return _any_of([_check(argument, configuration) for argument in arguments])
    if origin is tuple or kind is tuple:
        return _tuple([_check(argument, configuration) for argument in arguments if argument is not ...], arguments)
    if isinstance(kind, type) and issubclass(kind, configuration):
        return _made(lambda value: isinstance(value, kind), kind.__name__)
    return _made(lambda value: _is_restored(value, configuration), "what JSON can store, or a Configuration")


def _any_of(checks: list[Check]) -> Check:
    accepts = [check.accepts for check in checks]
    return _made(lambda value: any([a(value) for a in accepts]), " or ".join(check.rule for check in checks))


def _tuple(items: list[Check], arguments: tuple[Any, ...]) -> Check:
    if not items:
        return _made(lambda value: isinstance(value, tuple), "a tuple")
    if arguments[-1] is ...:
        accepts, rule, _ = items[0]
        return _made(lambda value: isinstance(value, tuple) and all(map(accepts, value)), f"a tuple, each {rule}")
    kinds = ", ".join(check.rule for check in items)

    def accepts_all(value: Any) -> bool:
        same = isinstance(value, tuple) and len(value) == len(items)
        return same and all(check.accepts(item) for check, item in zip(items, value, strict=True))

    return _made(accepts_all, f"a tuple of {kinds}")


def _is_number(value: Any) -> bool:
    kind = type(value)
    return value == value if kind is float else kind is int  # only NaN differs from itself


def _is_restored(value: Any, configuration: type) -> bool:
    if isinstance(value, tuple):
        return all(_is_restored(item, configuration) for item in value)
    if type(value) in _PLAIN:
        return not _has_nan(value)
    return isinstance(value, configuration)


def _has_nan(value: Any) -> bool:
    if isinstance(value, tuple):
        return any(map(_has_nan, value))
    return isinstance(value, float) and math.isnan(value)
