"""Integers that a checkpoint stores, checked when they are given."""

from __future__ import annotations

import operator
from typing import Any


def integer(owner: str, name: str, value: Any, low: int | None = None) -> int:
    """An argument as a Python integer, from one of numpy or torch too.

    Raises:
        TypeError: it is no integer.
        ValueError: it is below ``low``.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{owner}: {name} = {value!r} ({type(value).__name__}); it must be an integer") from None
    if low is not None and number < low:
        bound = "it must not be negative" if low == 0 else f"it must be at least {low}"
        raise ValueError(f"{owner}: {name} = {number}; {bound}")
    return number
