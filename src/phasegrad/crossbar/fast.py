"""Cells of a second kind beside the others: they take the update first, and what they gather is moved on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from phasegrad.cells import Cell
from phasegrad.configuration import Configuration, check_integer, check_number, check_type


@final
@dataclass(frozen=True, kw_only=True)
class Transfer(Configuration):
    """Closed-loop transfer: from time to time all of a weight moves to the slow devices, which are written anew.

    The whole weight is measured; the slow devices are RESET, and pulsed and read in turn until they hold it; what is
    then measured as missing goes to the fast ones, as counted pulses from rest (Ambrogio et al., Nature 558:60, 2018,
    whose capacitors take it over every 8,000 images). Left on the slow devices, the errors of every transfer would add
    up to a random walk.

    Args:
        every: samples from one transfer to the next.
        reads: how many reads long a measurement integrates; its noise is a read's over the square root.
        attempts: reads and pulses in turn, at most.
        tolerance: how far a device may be off at the end, over the nominal step. What it is off stays on the fast
            devices, which leak.
        limit: highest conductance that is aimed at, over ``g_max`` of the slow devices. SET pulses stop growing a PCM
            device on average well below its range; what lies beyond stays on the fast devices.
        inversion: whether the fast devices' part of the weight changes its sign after every transfer, and the update
            with it, so that what is unequal in their steps up and down averages out (polarity inversion).
    """

    every: int = 8000
    reads: int = 32
    attempts: int = 60
    tolerance: float = 0.5
    limit: float = 1.0
    inversion: bool = True

    def __post_init__(self) -> None:
        check_integer(self, "every", 1, 1 << 40)
        check_integer(self, "reads", 1, 1 << 20)
        check_integer(self, "attempts", 1, 10_000)
        check_number(self, "tolerance", 0.0, above=True)
        check_number(self, "limit", 0.0, 1.0, above=True)
        check_type(self, "inversion", bool)


@final
@dataclass(frozen=True, kw_only=True)
class Fast(Configuration):
    """Cells that take the update in place of the slow ones beside them: ``w = slow + gain * fast``.

    Args:
        cell: how their devices make a number in [-1, 1].
        scale: the weight that a full cell stands for.
        gain: how much of it counts in what is read: 1 for a capacitor beside PCM; ``gamma`` of Tiki-Taka.
        transfer: how the memory moves it to the slow cells, or ``None`` where an optimizer does.
    """

    cell: Cell
    scale: float
    gain: float = 1.0
    transfer: Transfer | None = None

    def __post_init__(self) -> None:
        check_type(self, "cell", Cell)
        check_number(self, "scale", 0.0, above=True)
        check_number(self, "gain", 0.0)
        check_type(self, "transfer", (Transfer, type(None)))
        if self.transfer is not None and self.gain != 1.0:
            raise ValueError(f"Fast: gain = {self.gain} with a transfer; it must be 1, so that moving keeps the weight")
