"""Named ranges for ``torch.profiler``, and observers of the methods that have one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch.autograd import profiler

Method = TypeVar("Method", bound=Callable[..., Any])

_observers: list[Callable[[Any], AbstractContextManager[Any]]] = []


@contextmanager
def observing(observe: Callable[[Any], AbstractContextManager[Any]]) -> Iterator[None]:
    """Run each profiled method within ``observe(object)``, in this context; hooks of a module miss ``m.forward(x)``."""
    _observers.append(observe)
    try:
        yield
    finally:
        _observers.remove(observe)


def are_observed() -> bool:
    """Whether something observes or profiles the methods that have a range."""
    return bool(_observers) or profiler._is_profiler_enabled


@contextmanager
def observed(layer: Any) -> Iterator[None]:
    """Let observers see what happens in this context as the work of ``layer``."""
    with ExitStack() as stack:
        for observe in _observers:
            stack.enter_context(observe(layer))
        yield


def profiled(name: Callable[[Any], str]) -> Callable[[Method], Method]:
    """Profile a method under the name ``phasegrad::<name>``; ``name`` returns the name from the method's object.

    Without a profiler, ``record_function`` still costs microseconds, more than checking whether a profiler runs.
    Compilers see only the method.
    """

    def decorate(method: Method) -> Method:
        @functools.wraps(method)
        def shown(self: Any, *arguments: Any, **named: Any) -> Any:
            if torch.compiler.is_compiling():
                return method(self, *arguments, **named)
            if _observers:
                with observed(self):
                    return method(self, *arguments, **named)
            if not profiler._is_profiler_enabled:
                return method(self, *arguments, **named)
            with profiler.record_function(f"phasegrad::{name(self)}"):
                return method(self, *arguments, **named)

        return shown  # type: ignore[return-value]

    return decorate


def sized(what: str) -> Callable[[Any], str]:
    """A name with the shape ``[out, in]`` of the object's conductances: ``update pulses [10, 784]``."""
    return lambda self: f"{what} {list(self.conductance.shape[1:])}"
