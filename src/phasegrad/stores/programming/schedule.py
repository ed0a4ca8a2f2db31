"""In which order the devices of a tile are pulsed and read, and how long that takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple, final

from torch import Tensor

from phasegrad.configuration import Configuration, check_integer, check_number


class Geometry(NamedTuple):
    """Size of a tile in cells, and the devices of a cell."""

    rows: int
    columns: int
    devices: int


@dataclass(frozen=True, kw_only=True)
class Schedule(Configuration, ABC):
    """The time of a round of pulses and of a verify read, for every tile. Tiles work at the same time."""

    @abstractmethod
    def pulse_time(self, pulsed: Tensor, duration: float, tile: Geometry) -> Tensor:
        """Time of a round of pulses [s] per tile.

        Args:
            pulsed: devices that are pulsed in each tile, ``[tiles]``.
            duration: duration of the longest pulse [s].
            tile: size of a tile.
        """

    @abstractmethod
    def read_time(self, read: Tensor, seconds: float, tile: Geometry) -> Tensor:
        """Time of a verify read [s] per tile.

        Args:
            read: devices that are read in each tile, ``[tiles]``.
            seconds: time for which a device is read.
            tile: size of a tile.
        """


@final
@dataclass(frozen=True, kw_only=True)
class Rows(Schedule):
    """Row after row; within a row, ``heads`` devices are pulsed at a time, and ``readers`` are read at a time.

    Devices that need no pulse any more are skipped.

    Args:
        heads: write heads of a tile.
        readers: devices that are read at the same time.
        pause: time between two pulses or reads [s].
    """

    heads: int = 1
    readers: int = 1
    pause: float = 0.0

    def __post_init__(self) -> None:
        check_integer(self, "heads", 1, 1 << 30)
        check_integer(self, "readers", 1, 1 << 30)
        check_number(self, "pause", 0.0)

    def pulse_time(self, pulsed: Tensor, duration: float, tile: Geometry) -> Tensor:
        """The pulsed devices over the heads, times the duration of a pulse [s]."""
        return (pulsed.double() / self.heads).ceil() * (duration + self.pause)

    def read_time(self, read: Tensor, seconds: float, tile: Geometry) -> Tensor:
        """The devices that are read over the readers, times the duration of a read [s]."""
        return (read.double() / self.readers).ceil() * (seconds + self.pause)
