"""Parameters that become other parameters, and stay shared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

from torch import nn

Exchanges: TypeAlias = dict[int, tuple[nn.Parameter, nn.Parameter]]
"""By the id of a parameter, itself (so that the id stays its own) and what it became."""

_exchanges: ContextVar[Exchanges | None] = ContextVar("_exchanges", default=None)


@contextmanager
def sharing() -> Iterator[Exchanges]:
    """While this lasts a parameter that is exchanged becomes the same one wherever it occurs."""
    exchanges: Exchanges = {}
    token = _exchanges.set(exchanges)
    try:
        yield exchanges
    finally:
        _exchanges.reset(token)


def exchanged(parameter: nn.Parameter, make: Callable[[], nn.Parameter]) -> nn.Parameter:
    """What a parameter becomes: what it became before, or what ``make`` gives."""
    exchanges = _exchanges.get()
    if exchanges is None:
        return make()
    if id(parameter) not in exchanges:
        exchanges[id(parameter)] = (parameter, make())
    return exchanges[id(parameter)][1]
