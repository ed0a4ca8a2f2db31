"""Progress of long loops: a bar on a terminal or in a notebook, occasional lines in a file or a log."""

from __future__ import annotations

import contextlib
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TextIO

from tqdm import tqdm

SECONDS_PER_LINE = 30.0
"""Minimum time between two plain lines [s]."""


def interactive(stream: TextIO) -> bool:
    """Whether a stream is a terminal or a notebook, which can redraw a bar."""
    isatty = getattr(stream, "isatty", None)  # a stream that forwards to a logger may have none
    return (isatty is not None and isatty()) or type(stream).__module__.startswith("ipykernel")


class Progress(ABC):
    """Progress of a loop, used as a context manager."""

    @abstractmethod
    def update(self, count: int = 1) -> None:
        """Count completed units."""

    @abstractmethod
    def describe(self, label: str) -> None:
        """Set the label before the bar."""

    @abstractmethod
    def values(self, **values: str) -> None:
        """Set figures to show, such as ``loss="0.12"``."""

    @abstractmethod
    def close(self) -> None:
        """Show the final state."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


def track(total: int | None, *, unit: str, label: str = "", initial: int = 0, shown: bool = True) -> Progress:
    """Show the progress of a loop on the standard error stream.

    On a terminal or in a notebook, this is a bar that disappears at the end. Elsewhere, it is a plain line at most
    every ``SECONDS_PER_LINE``, and one at the end.

    Args:
        total: total number of units; ``None`` if unknown.
        unit: name of the unit, in the singular.
        label: label before the bar.
        initial: number of units completed earlier, as in a resumed training.
        shown: whether to show anything.
    """
    if not shown or sys.stderr is None:
        return _Silent()
    if interactive(sys.stderr):
        return _Bar(tqdm(total=total, initial=initial, desc=label or None, unit=unit, leave=False))
    return _Lines(sys.stderr, total, unit, label, initial)


class _Silent(Progress):
    def update(self, count: int = 1) -> None:
        pass

    def describe(self, label: str) -> None:
        pass

    def values(self, **values: str) -> None:
        pass

    def close(self) -> None:
        pass


class _Bar(Progress):
    def __init__(self, bar: tqdm[Any]) -> None:
        self._bar = bar

    def update(self, count: int = 1) -> None:
        self._bar.update(count)

    def describe(self, label: str) -> None:
        self._bar.set_description(label)

    def values(self, **values: str) -> None:
        self._bar.set_postfix(values, refresh=False)

    def close(self) -> None:
        self._bar.close()


class _Lines(Progress):
    def __init__(
        self, stream: TextIO, total: int | None, unit: str, label: str, initial: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._stream, self._total, self._unit, self._label, self._clock = stream, total, unit, label, clock
        self._initial = self._count = initial
        self._values: dict[str, str] = {}
        self._started = self._printed = clock()

    def update(self, count: int = 1) -> None:
        self._count += count
        if self._clock() - self._printed >= SECONDS_PER_LINE:
            self._print()

    def describe(self, label: str) -> None:
        self._label = label

    def values(self, **values: str) -> None:
        self._values = values

    def close(self) -> None:
        self._print()

    def _print(self) -> None:
        """Write progress, rate, and the remaining time at that rate."""
        self._printed = self._clock()
        elapsed, done = self._printed - self._started, self._count - self._initial
        parts = [f"{self._count:,}{'' if self._total is None else f'/{self._total:,}'} {self._unit}"]
        if self._total:
            parts[0] += f" ({self._count / self._total:.0%})"
        parts.append(f"{tqdm.format_interval(elapsed)} elapsed")
        if done and elapsed > 0:
            parts.append(f"{done / elapsed:.3g} {self._unit}/s")
            if self._total is not None and self._total > self._count:
                parts.append(f"{tqdm.format_interval((self._total - self._count) * elapsed / done)} left")
        parts += [f"{name}={value}" for name, value in self._values.items()]
        with contextlib.suppress(OSError, ValueError):  # a closed pipe or file must not end the loop
            print(f"{self._label}: " if self._label else "", ", ".join(parts), sep="", file=self._stream, flush=True)
