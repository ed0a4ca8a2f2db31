"""Write heads that work on the diagonals of a tile, as on IBM's HERMES chip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from phasegrad.configuration import check_integer, check_number
from phasegrad.stores.programming.schedule import Geometry, Schedule


@final
@dataclass(frozen=True, kw_only=True)
class Diagonals(Schedule):
    """Pulses go to a diagonal at a time, whose cells share no line; reads go to a row at a time.

    A tile of ``r`` rows and ``c`` columns has ``max(r, c)`` diagonals of ``min(r, c)`` cells, which wrap around its
    edges. ``heads`` cells of a diagonal are pulsed in one cycle, one device per cell, so a round of pulses takes
    ``max(r, c) * ceil(min(r, c) / heads) * devices`` cycles, each as long as a pulse. The sequencer visits all devices,
    also those that need no pulse. A read measures all columns of a row at once, one polarity after the other.

    Args:
        heads: devices that are pulsed at once.
        polarities: lines of a cell that are read one after the other.
        settling: time from the start of a read to the measurement [s].

    References:
        Le Gallo, M. et al. A 64-core mixed-signal in-memory compute chip based on phase-change memory for deep neural
        network inference. Nat. Electron. 6 (2023). https://doi.org/10.1038/s41928-023-01010-1

    Examples:
        A round on a core of 256 x 256 cells of two devices, one of each polarity: 256 diagonals of 8 cycles per device

        >>> import torch
        >>> core, all = Geometry(rows=256, columns=256, devices=2), torch.tensor([2 * 256 * 256])
        >>> f"{Diagonals().pulse_time(all, 125e-9, core).item() * 1e3:.3f} ms"
        '0.512 ms'
        >>> f"{Diagonals().read_time(all, 512e-9, core).item() * 1e3:.3f} ms"
        '0.393 ms'
    """

    heads: int = 32
    polarities: int = 2
    settling: float = 256e-9

    def __post_init__(self) -> None:
        check_integer(self, "heads", 1, 1 << 20)
        check_integer(self, "polarities", 1, 1 << 10)
        check_number(self, "settling", 0.0)

    def pulse_time(self, pulsed: Tensor, duration: float, tile: Geometry) -> Tensor:
        """Time of a round of pulses in each tile [s]; 0 where no device is pulsed."""
        shorter, longer = sorted((tile.rows, tile.columns))
        cycles = longer * -(-shorter // self.heads) * tile.devices
        return (pulsed > 0).double() * (cycles * duration)

    def read_time(self, read: Tensor, seconds: float, tile: Geometry) -> Tensor:
        """Time of a round of reads in each tile [s]; 0 where no device is read."""
        return (read > 0).double() * (tile.rows * self.polarities * (seconds + self.settling))
