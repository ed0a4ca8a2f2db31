"""Ctrl-C during a step: it takes effect between two weights, never within the update of one.

A signal that arrives while a kernel pulses devices would otherwise raise as soon as the kernel returns, before anything
has recorded that its samples are used.
"""

from __future__ import annotations

import importlib
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# The functions of ``signal`` also convert numbers and handlers to enumerations, which takes longer than a small update.
_plain: Any = importlib.import_module("_signal")
_SIGINT = int(signal.SIGINT)


def _nothing_waits() -> None:
    pass


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], None]]:
    """Within this context, SIGINT waits until the yielded function is called, or the context ends.

    A second SIGINT takes effect at once. Handlers of the program, if it has its own, are called then. In threads other
    than the main one, where Python delivers no signals, nothing changes.
    """
    handler = _plain.getsignal(_SIGINT) if threading.current_thread() is threading.main_thread() else None
    if not callable(handler):
        yield _nothing_waits
        return
    waiting: list[tuple[int, Any]] = []

    def defer(number: int, frame: Any) -> None:
        waiting.append((number, frame))
        if len(waiting) > 1:
            deliver()

    def deliver() -> None:
        if waiting:
            arguments = waiting[0]
            waiting.clear()
            handler(*arguments)

    _plain.signal(_SIGINT, defer)
    try:
        yield deliver
    finally:
        _plain.signal(_SIGINT, handler)
        deliver()
