"""The interface of every compensation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar

from torch import Tensor, nn

from phasegrad.crossbar.mapping import row_tiles
from phasegrad.inference.programming import Seeds
from phasegrad.nn import AnalogLayer, analog_layers
from phasegrad.stores import AnalogWeight


class Compensation(ABC):
    """A correction of a chip for its age, the argument ``compensation`` of ``compensate`` and ``accuracy_over_time``.

    It knows the chip's configuration, its clock, and noisy reads, never its conductances.
    """

    sets_gain: ClassVar[bool] = False
    """Whether it corrects the mean drift by the gain of each tile, so that another one that does would do so twice."""

    def check(self, chip: nn.Module, caller: str) -> None:  # noqa: B027 -- most compensations suit every chip
        """Raise ``ValueError`` if the chip cannot be compensated so; nothing is changed then."""

    @abstractmethod
    def apply(self, chip: nn.Module, seeds: Seeds) -> None:
        """Compensate a programmed chip in place.

        Args:
            chip: the chip.
            seeds: seeds of noisy reads.
        """

    @abstractmethod
    def reads(self, chip: nn.Module) -> int:
        """Tile reads of one application: input vectors driven into a tile, with all its columns converted."""


def devices_of(chip: nn.Module) -> Iterator[tuple[AnalogLayer, AnalogWeight]]:
    """The devices of a programmed net, each once, with the first layer that has them."""
    done: set[int] = set()
    for layer in analog_layers(chip).values():
        if layer.devices is not None and id(layer.devices) not in done:
            done.add(id(layer.devices))
            yield layer, layer.devices


def correct_gains(chip: nn.Module, correct: Callable[[AnalogLayer, AnalogWeight, Tensor], None], seeds: Seeds) -> None:
    """Call ``correct(layer, devices, seed)`` for all devices of a chip, and refresh the weights of its layers."""
    for layer, devices in devices_of(chip):
        correct(layer, devices, seeds.next(layer.weight.device))
    for layer in analog_layers(chip).values():
        layer.store.sync()


def row_reads_of(layer: AnalogLayer) -> int:
    """Tile reads of a calibration read of a layer: one per row of every tile."""
    return layer.in_features * -(-layer.out_features // layer.columns)


def tiles_of(layer: AnalogLayer) -> int:
    """Tile reads of a layer per input vector: its tiles, times the slices of an input that are driven in turn."""
    drives = 1 if layer.hardware.dac is None else layer.hardware.dac.drives_per_product
    return row_tiles(layer.in_features, layer.hardware) * -(-layer.out_features // layer.columns) * drives
