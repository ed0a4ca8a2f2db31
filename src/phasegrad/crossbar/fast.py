"""A second array of cells that receives the updates first and transfers its content to the slow cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from phasegrad.cells import Cell
from phasegrad.configuration import Configuration, check_integer, check_number, check_type


@final
@dataclass(frozen=True, kw_only=True)
class Transfer(Configuration):
    """Closed-loop transfer: at intervals, the whole weight is written to the slow devices.

    The whole weight is measured. The slow devices are RESET, then pulsed and read in turn until they store it. The
    measured residual is written to the fast devices, as counted pulses starting at 0. Without this step, the errors of
    successive transfers would add up to a random walk.

    Args:
        every: samples from one transfer to the next.
        reads: number of reads that a measurement averages; its noise is that of a read over the square root of this.
        attempts: largest number of write-and-verify cycles.
        tolerance: largest final error of a device, relative to the nominal step. The error remains on the fast devices,
            which leak.
        limit: highest target conductance, relative to ``g_max`` of the slow devices. SET pulses saturate a PCM device
            well below its range; the part of a weight above the limit remains on the fast devices.
        inversion: whether the sign of the fast devices in the weight, and of the update, is inverted after every
            transfer, so that asymmetry of their steps averages out (polarity inversion).

    References:
        Ambrogio, S. et al. Equivalent-accuracy accelerated neural-network training using analogue memory. Nature 558,
        60-67 (2018), with a transfer every 8,000 images. https://doi.org/10.1038/s41586-018-0180-5
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
    """Cells that receive the updates in place of the slow cells: ``w = slow + gain * fast``.

    Args:
        cell: unit cell, which represents a number in [-1, 1].
        scale: weight of a cell at its maximum.
        gain: factor of the fast cells in the weight: 1 for a capacitor with PCM; ``gamma`` of Tiki-Taka.
        transfer: closed-loop transfer to the slow cells, or ``None`` if an optimizer transfers.
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
            raise ValueError(
                f"Fast: gain = {self.gain} with a transfer; it must be 1, so that a transfer preserves the weight"
            )
