"""The interface of every way to program an array of devices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from torch import Tensor

from phasegrad.cells import Cell
from phasegrad.configuration import Configuration

if TYPE_CHECKING:
    from phasegrad.stores.device_array import DeviceArray
    from phasegrad.stores.programming.record import ProgrammingRecord


@dataclass(frozen=True, kw_only=True)
class ProgrammingMethod(Configuration, ABC):
    """How the devices of a chip are programmed, the argument ``how`` of [`program`][phasegrad.inference.program]."""

    def check(self, cell: Cell) -> None:
        """Raise ``ValueError`` if the devices of a cell cannot be programmed so; nothing is written then."""

    @abstractmethod
    def write(
        self, array: DeviceArray, relative: Tensor, now: Tensor, seed: Tensor, tile: tuple[int, int]
    ) -> ProgrammingRecord | None:
        """Program every cell of an array.

        Args:
            array: the devices.
            relative: weights ``[out, in]`` in [-1, 1].
            now: time [s].
            seed: seed of all draws.
            tile: rows (inputs) and columns (outputs) of a tile.

        Returns:
            What the process was, or ``None`` if the method does not model a process.
        """


@final
@dataclass(frozen=True, kw_only=True)
class Statistical(ProgrammingMethod):
    """One draw per device from the measured statistics of programming, drift included: fast, and the default."""

    def write(
        self, array: DeviceArray, relative: Tensor, now: Tensor, seed: Tensor, tile: tuple[int, int]
    ) -> ProgrammingRecord | None:
        """Program every cell; see [`Device.program`][phasegrad.devices.Device]."""
        array.program(relative, now, seed)
        return None
