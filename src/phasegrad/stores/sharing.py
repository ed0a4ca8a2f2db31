"""Replacement of parameters that keeps shared parameters shared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

from torch import nn

Exchanges: TypeAlias = dict[int, tuple[nn.Parameter, nn.Parameter]]
"""By the id of a parameter: the parameter, kept so that its id is not reused, and its replacement."""

_exchanges: ContextVar[Exchanges | None] = ContextVar("_exchanges", default=None)


@contextmanager
def sharing() -> Iterator[Exchanges]:
    """In this context, all occurrences of a parameter are replaced with the same new parameter."""
    exchanges: Exchanges = {}
    token = _exchanges.set(exchanges)
    try:
        yield exchanges
    finally:
        _exchanges.reset(token)


def exchange_parameters(net: nn.Module, exchanges: Exchanges) -> None:
    """Replace parameters in all modules of a net, so that those which were tied to an exchanged one stay tied."""
    for module in net.modules():
        for name, parameter in module._parameters.items():
            if id(parameter) in exchanges:
                module._parameters[name] = exchanges[id(parameter)][1]


def exchanged(parameter: nn.Parameter, make: Callable[[], nn.Parameter]) -> nn.Parameter:
    """Return the earlier replacement of a parameter, or else the result of ``make``."""
    exchanges = _exchanges.get()
    if exchanges is None:
        return make()
    if id(parameter) not in exchanges:
        exchanges[id(parameter)] = (parameter, make())
    return exchanges[id(parameter)][1]
