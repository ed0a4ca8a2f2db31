"""Copies of what an optimizer's step changes on devices, so that a step that is refused midway leaves no trace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from phasegrad.stores import InMemoryWeight


class Snapshot:
    """In-memory weights with their devices, staged samples and optimizer state, at the time when it is created.

    Args:
        optimizer: the optimizer.
        weights: the weights that the step may pulse.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, weights: Sequence[InMemoryWeight]) -> None:
        self._state, self._weights = optimizer.state, weights
        tensors = [t for w in weights for t in (w.memory, *w.devices.buffers())]
        self._tensors = [(t, t.clone()) for t in tensors]
        self._current = [w.is_current for w in weights]
        self._staged = [None if w.pending is None else w.pending.scaled(1.0) for w in weights]
        self._entries = [_copied(self._state[w]) if w in self._state else None for w in weights]

    def restore(self) -> None:
        """Write all values back."""
        for tensor, before in self._tensors:
            tensor.copy_(before)
        for weight, current, staged, entry in zip(
            self._weights, self._current, self._staged, self._entries, strict=True
        ):
            weight.replace_staged(staged)
            if current:
                weight.mark_current()
            if entry is None:
                self._state.pop(weight, None)
            else:
                self._state[weight] = entry


def _copied(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in entry.items()}
