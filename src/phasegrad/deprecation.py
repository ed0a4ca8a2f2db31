"""Old names, which keep working for one release with a warning that states the new name."""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_NOT_THE_USERS = frozenset({"abc", "dataclasses", "functools", "phasegrad", "torch"})
"""Packages between the user's code and a warning."""


def warn_renamed(old: str, new: str) -> None:
    """Warn that a name was renamed, at the line of the user's code that led here.

    Args:
        old: the name that was used.
        new: the name to use instead.
    """
    message = f"{old} was renamed to {new} in phasegrad 0.2.0; the old name is removed in 0.3.0"
    warnings.warn(message, DeprecationWarning, stacklevel=users_stack_level())


def users_stack_level() -> int:
    """The ``stacklevel`` with which the caller's warning names the user's line that led to it."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in _NOT_THE_USERS:
        level, frame = level + 1, frame.f_back
    return level


def renamed_attributes(module: str, names: dict[str, str]) -> Callable[[str], Any]:
    """Create a module's ``__getattr__`` that resolves renamed attributes.

    Args:
        module: the ``__name__`` of the module.
        names: new names by old names.
    """

    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn_renamed(f"{module}.{name}", names[name])
        return getattr(sys.modules[module], names[name])

    return __getattr__


def moved_attributes(module: str, home: str, **names: str) -> Callable[[str], Any]:
    """Create a module's ``__getattr__`` that resolves attributes that moved to another module.

    Args:
        module: the ``__name__`` of the module.
        home: the name of the module that they moved to, imported when one of them is read.
        names: names in ``home`` by old names.
    """

    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn_renamed(f"{module}.{name}", f"{home}.{names[name]}")
        return getattr(importlib.import_module(home), names[name])

    return __getattr__


def renamed_arguments(**names: str) -> Callable[[F], F]:
    """Decorate a function to accept old keywords.

    Args:
        names: new keywords by old keywords.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def renamed(*arguments: Any, **keywords: Any) -> Any:
            for old, new in names.items():
                if old in keywords:
                    name = function.__qualname__.removesuffix(".__init__")
                    if new in keywords:
                        raise TypeError(f"{name}: {old}= and {new}= are one argument; give {new}= alone")
                    warn_renamed(f"{name}({old}=)", f"{new}=")
                    keywords[new] = keywords.pop(old)
            return function(*arguments, **keywords)

        return renamed  # type: ignore[return-value]

    return decorate
