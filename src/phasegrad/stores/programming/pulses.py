"""One round of pulses on the devices of a write loop."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Pulses(NamedTuple):
    """Pulses ``[devices, cells]``, at most one of one kind per device; ``None`` for none of a kind."""

    amplitude: Tensor | None = None
    """Currents of square pulses that melt and quench [A]; 0 for no pulse."""
    duration: float = 0.0
    """Their duration [s]."""
    fully_set: Tensor | None = None
    """Whether a device receives a pulse that SETs it fully."""
    set_duration: float = 0.0
    """Duration of that pulse [s]."""
    set_current: float = 0.0
    """Its current [A], for the energy."""
    seconds: Tensor | None = None
    """Durations of pulses that SET partially [s]; 0 for no pulse."""
    reset: Tensor | None = None
    """Whether a device receives an ordinary RESET pulse, for devices with a step law."""
    counts: Tensor | None = None
    """Pulses per cell ``[cells]``, int32, for devices with a step law: positive to increase the weight."""
    planes: tuple[int, int] = (0, 0)
    """The devices of a cell that ``counts`` pulses to increase and to decrease the weight."""

    def pulsed(self) -> Tensor:
        """How many pulses every device receives, int32 ``[devices, cells]``."""
        parts = [part for part in (self.amplitude, self.seconds) if part is not None]
        masks = [part > 0.0 for part in parts] + [m for m in (self.fully_set, self.reset) if m is not None]
        total = sum((mask.int() for mask in masks[1:]), masks[0].int()) if masks else None
        if self.counts is not None:
            assert total is not None, "counts come with a mask of RESET devices"
            up, down = self.planes
            total[up] += self.counts.clamp(min=0)
            total[down] += (-self.counts).clamp(min=0)
        assert total is not None
        return total

    @property
    def longest(self) -> float:
        """Duration of the longest pulse [s]; 0 for pulses whose duration a step law does not state."""
        longest = float(self.seconds.max()) if self.seconds is not None and self.seconds.numel() else 0.0
        own = self.duration if self.amplitude is not None else 0.0
        return max(own, longest, self.set_duration if self.fully_set is not None else 0.0)


def none_left(pulses: Pulses) -> bool:
    """Whether a round has no pulse."""
    return not bool(torch.any(pulses.pulsed() > 0))
