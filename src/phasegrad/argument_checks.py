"""Checks of the arguments of public functions.

Each check raises an error that states the argument with its value, the rule and the way out, and returns the value as
a plain Python one: ``numpy`` numbers become ``int`` or ``float``.
"""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

T = TypeVar("T")


def shown(value: object) -> str:
    """A short text for a value in an error message: its ``repr``, or its type where that is long."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)} and dtype {value.dtype}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, nn.Module):
        return f"a {type(value).__name__} module"
    text = repr(value)
    return text if len(text) <= 80 else f"a {type(value).__name__}"


def _refuse(
    kind: type[Exception], caller: str, name: str, value: object, rule: str, unit: str = ""
) -> Exception:  # fmt: skip
    return kind(f"{caller}: {name} = {shown(value)}{f' {unit}' if unit else ''}; it must be {rule}")


def _kind(value: object) -> type[Exception]:
    """The kind of error for a value where another kind of number is wanted."""
    return ValueError if isinstance(value, numbers.Number) else TypeError


def module(caller: str, name: str, value: object) -> nn.Module:
    """Raise ``TypeError`` unless a value is an ``nn.Module`` object."""
    if isinstance(value, nn.Module):
        return value
    if isinstance(value, type) and issubclass(value, nn.Module):
        rule = f"a module, not its class; create one, as in {value.__name__}(...)"
    else:
        rule = "an nn.Module"
    raise _refuse(TypeError, caller, name, value, rule)


def instance(caller: str, name: str, value: object, kind: type[T], *, of: str = "") -> T:
    """Raise ``TypeError`` unless a value is an object of a class; ``of`` describes it in place of the class name."""
    if isinstance(value, kind):
        return value
    rule = of or f"a {kind.__name__}"
    if isinstance(value, type) and issubclass(value, kind):
        rule += f", not its class; create one, as in {value.__name__}(...)"
    raise _refuse(TypeError, caller, name, value, rule)


def integer(caller: str, name: str, value: object, low: int, high: int | None = None, *, of: str = "") -> int:
    """Raise unless a value is an integer in ``[low, high]``.

    Raises:
        TypeError: the value is not a number.
        ValueError: it is not an integer (a ``bool`` is none), or out of range.
    """
    interval = f"of at least {low}" if high is None else f"in [{low}, {high}]"
    rule = of or f"an integer {interval}"
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise _refuse(_kind(value), caller, name, value, rule)
    number = int(value)
    if number < low or (high is not None and number > high):
        raise _refuse(ValueError, caller, name, number, rule)
    return number


def seed(caller: str, value: object, name: str = "seed") -> int:
    """Raise unless a value is a seed of torch's generators, an integer in [-2**63, 2**64)."""
    return integer(caller, name, value, -(2**63), 2**64 - 1, of="an integer in [-2**63, 2**64)")


def number(
    caller: str, name: str, value: object, low: float = -math.inf, high: float = math.inf, *, above: bool = False,
    unit: str = "",
) -> float:  # fmt: skip
    """Raise unless a value is a finite number in ``[low, high]``, or ``(low, high]`` if ``above``.

    Raises:
        TypeError: the value is not a number.
        ValueError: it is not real (a ``bool`` is not), not finite, or out of range.
    """
    rule = _interval(low, high, above)
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise _refuse(_kind(value), caller, name, value, rule, unit)
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found) or not (found > low if above else found >= low) or found > high:
        raise _refuse(ValueError, caller, name, found, rule, unit)
    return found


def _interval(low: float, high: float, above: bool) -> str:
    parts = ["a number, finite"]
    if low == 0.0 and not above:
        parts.append("not negative")
    elif low > -math.inf:
        parts.append(f"{'above' if above else 'at least'} {low:g}")
    if high < math.inf:
        parts.append(f"at most {high:g}")
    return " and ".join(parts) if len(parts) < 3 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def flag(caller: str, name: str, value: object) -> bool:
    """Raise ``TypeError`` unless a value is ``True`` or ``False``."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise _refuse(TypeError, caller, name, value, "True or False")


def choice(caller: str, name: str, value: object, choices: tuple[str, ...]) -> str:
    """Raise ``ValueError`` unless a value is one of some strings, and ``TypeError`` unless it is a string."""
    rule = " or ".join(filter(None, (", ".join(map(repr, choices[:-1])), repr(choices[-1]))))
    if not isinstance(value, str):
        raise _refuse(TypeError, caller, name, value, rule)
    if value not in choices:
        raise _refuse(ValueError, caller, name, value, rule)
    return value


def function(caller: str, name: str, value: T, signature: str, *, modules: bool = False) -> T:
    """Raise ``TypeError`` unless a value is a function; ``signature`` says how it will be called.

    Args:
        caller: name of the public function.
        name: name of the argument.
        value: the value.
        signature: how it will be called, for the error.
        modules: whether a module, such as a loss of torch, may stand for a function.
    """
    if callable(value) and not isinstance(value, (type, Tensor)) and (modules or not isinstance(value, nn.Module)):
        return value
    raise _refuse(TypeError, caller, name, value, f"a function {signature}")


def loader(caller: str, name: str, value: object) -> Iterable[Any]:
    """Raise ``TypeError`` unless a value can be iterated for batches."""
    repeats = isinstance(value, Iterable) or callable(getattr(type(value), "__getitem__", None))
    if repeats and not isinstance(value, (str, bytes, dict, Tensor, type, nn.Module, set)):
        return value  # type: ignore[return-value]
    raise _refuse(TypeError, caller, name, value, "an iterable of batches, such as a DataLoader or a list")


def path(caller: str, name: str, value: object) -> Path:
    """Raise ``TypeError`` unless a value is a path: a string that is not empty, or ``os.PathLike``."""
    if isinstance(value, (str, os.PathLike)) and str(value):
        return Path(value)
    raise _refuse(TypeError, caller, name, value, "a path: a string or os.PathLike, not empty")


def result(caller: str, function: str, value: object, where: str = "") -> float:
    """The number that a user's function returned, such as an accuracy; ``where`` says when, for the error.

    Raises:
        ValueError: it is no finite number: ``None``, text, several numbers, NaN.
    """
    try:
        found = math.nan if isinstance(value, (str, bytes)) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        found = math.nan
    if math.isfinite(found):
        return found
    raise ValueError(f"{caller}: {function} returned {shown(value)}{where}; it must return one finite number")


def tensor(caller: str, name: str, value: object, of: str) -> Tensor:
    """Raise ``TypeError`` unless a value is a tensor; ``of`` describes the expected one."""
    if isinstance(value, Tensor):
        return value
    raise _refuse(TypeError, caller, name, value, f"a tensor {of}")


def refused(caller: str, make: Callable[[], T], arguments: dict[str, Any], defaults: dict[str, Any]) -> T:
    """Call torch with the arguments of ``caller``, and state them if torch refuses them.

    Raises:
        TypeError: torch raised one.
        ValueError: torch raised another error.
    """
    try:
        return make()
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        given = {name: value for name, value in arguments.items() if name not in defaults or value != defaults[name]}
        listed = ", ".join(f"{name} = {shown(value)}" for name, value in given.items())
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{caller}: {listed}; torch refuses this combination: {error}") from error
