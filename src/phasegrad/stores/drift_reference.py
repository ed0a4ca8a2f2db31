"""Reference columns: devices that are programmed next to a weight's and read with every product, to track its drift."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from phasegrad.cells import DifferentialPair
from phasegrad.crossbar import streams
from phasegrad.crossbar.hardware import Hardware
from phasegrad.crossbar.mapping import row_tiles
from phasegrad.ops.direct import call
from phasegrad.stores import wired_devices
from phasegrad.stores.device_array import DeviceArray
from phasegrad.stores.registered import Registered

if TYPE_CHECKING:
    from phasegrad.stores.analog_weight import AnalogWeight


def mean_age(weight: AnalogWeight) -> float:
    """Mean time since devices were programmed or pulsed [s], which the controller of a chip knows."""
    return float(weight.age.double().mean())


def spread_weights(count: int, like: Tensor) -> Tensor:
    """Weights in (0, 1) that cover the window of a device evenly, ``[count]``."""
    return (torch.arange(count, device=like.device, dtype=torch.float32) + 0.5) / count


@final
class DriftReference(DeviceArray):
    """The reference columns of a weight: ``count`` per tile, as many cells each as the tile has rows.

    Every cell is a pair of the weight's devices, and the weights of a column's cells cover the window evenly. All rows
    are driven at once, and the mean of the columns is one number per tile; its ratio to the first one is the gain.

    The columns have wires like those of the weight, and lie at the drivers, where the currents of the weight's columns
    hardly lower the voltages of word lines; that of a driver's own resistance is left out. Their devices are stuck as
    often as those of the weight in the same row and tile, which includes dead rows.

    Args:
        hardware: the hardware of the weight.
        count: columns per tile.
        tiles: tiles along the outputs.
        in_features: inputs of the weight.

    Attributes:
        columns: columns per tile, ``count``.
        solved, wire_sensitivity, wire_offset: as for [`AnalogWeight`][phasegrad.stores.AnalogWeight].
        first: ``[row tiles, column tiles]``, the read right after programming, in units of a full cell.
    """

    first = Registered[Tensor]()
    solved = Registered["Tensor | None"]()
    wire_sensitivity = Registered["Tensor | None"]()
    wire_offset = Registered["Tensor | None"]()

    def __init__(self, hardware: Hardware, count: int, tiles: int, in_features: int, device: Any = None) -> None:
        cell = DifferentialPair(device=hardware.cell.device)
        super().__init__(cell, None, None, (tiles * count, in_features), device)
        self.hardware, self.count, self.columns = hardware, count, count
        shape = (row_tiles(in_features, hardware), tiles)
        self.register_buffer("first", torch.ones(shape, dtype=torch.float32, device=device))
        wired_devices.make_buffers(self)

    @torch.no_grad()
    def program_beside(self, weight: AnalogWeight, seed: Tensor) -> None:
        """Program the columns when the weight's devices were, and advance them to the present time.

        The devices are independent of the weight's, so it makes no difference when they are drawn.
        """
        count, columns = self.conductance.shape[2], self.conductance.shape[1]
        relative = spread_weights(count, self.conductance).expand(columns, count)
        began = weight.clock - mean_age(weight)
        if self.stuck is None and weight.stuck is not None:
            self.register_buffer("stuck", self._stuck_like(weight.stuck, weight.columns, seed + streams.TRACKING))
            corrects = None if weight.corrects_stuck is None else self.blank("corrects_stuck")
            self.register_buffer("corrects_stuck", corrects)
        self.program(relative, began, seed + streams.TRACKING)
        self.first.copy_(self._outputs(began, seed + streams.TRACKING))
        self.advance(began, float(weight.clock))
        if self.heat is not None and weight.heat is not None:  # the same chip has had the same temperatures
            self.heat.copy_(weight.heat)

    def _stuck_like(self, stuck: Tensor, columns: int, seed: Tensor) -> Tensor:
        """Stuck conductances ``[devices, columns, in]`` [S], each that of a random device of the weight in its row."""
        own = self.conductance
        picks, found = torch.ops.phasegrad.uniform(seed, streams.FAULTS, tuple(own.shape)), self.blank("stuck")
        for tile, of_tile in enumerate(stuck.split(columns, dim=1)):
            mine, devices = slice(tile * self.count, (tile + 1) * self.count), of_tile.flatten(0, 1)
            index = (picks[:, mine] * len(devices)).long().clamp(max=len(devices) - 1)
            found[:, mine] = devices.gather(0, index.flatten(0, 1)).view_as(found[:, mine])
        return found

    def gain(self, now: Tensor, columns: int, outputs: int, seed: Tensor | None) -> Tensor:
        """The gain ``[row tiles, out]`` that returns the columns to their first read.

        Args:
            now: present time [s].
            columns: outputs per tile.
            outputs: outputs of the weight.
            seed: seed of this read; ``None`` for its mean.
        """
        present = self._outputs(now, None if seed is None else seed + streams.TRACKING)
        ratio = torch.where((present > 0) & (self.first > 0), self.first / present, torch.ones_like(present))
        return ratio.repeat_interleave(columns, dim=1)[:, :outputs]

    def _outputs(self, now: Tensor, seed: Tensor | None) -> Tensor:
        """The mean output of each tile's columns ``[row tiles, column tiles]``, with the output noise of a column."""
        if not torch.compiler.is_compiling():  # which sees the solution of the last call
            wired_devices.solve(self, now)
        conductance = self.present(now) if seed is None else self.read(now, seed)
        cells = self.cell.weight(wired_devices.through_wires(self, conductance))
        outputs = torch.stack([part.sum(1) for part in cells.split(self.hardware.rows, dim=1)])
        if seed is not None and self.hardware.output_noise > 0.0:
            noise = call("normal", seed, streams.TRACKING_OUTPUT, tuple(outputs.shape))
            outputs = outputs + self.hardware.output_noise * noise
        return outputs.view(len(outputs), -1, self.count).mean(2)


@torch.no_grad()
def track_drift(weight: AnalogWeight, count: int, seed: Tensor, *, renew: bool = False) -> None:
    """Correct the drift of a weight by reference columns from now on; those that the tiles have are kept.

    Args:
        weight: the devices of the weight.
        count: columns per tile.
        seed: seed of the draws.
        renew: whether columns that the tiles have are replaced.
    """
    present = weight.drift_reference
    if present is None or present.count != count or renew:
        reference = _blank(weight, count)
        reference.program_beside(weight, seed)
        weight.register_module("drift_reference", reference)
    weight.gain.fill_(1.0)


def expect_columns(weight: AnalogWeight, state: Mapping[str, Any], prefix: str) -> None:
    """Have the columns that track drift that are about to be loaded, if devices are loaded.

    Args:
        weight: the devices of the weight.
        state: a state dict.
        prefix: what the names of these devices begin with in it.
    """
    if f"{prefix}conductance" not in state:
        return
    key, present = f"{prefix}drift_reference.conductance", weight.drift_reference
    found = state.get(key)
    if not isinstance(found, Tensor) or found.dim() != 3:
        weight.register_module("drift_reference", None)
        return
    count = max(1, found.shape[1] // -(-weight.conductance.shape[1] // weight.columns))
    if present is None or present.count != count:
        present = _blank(weight, count)
    weight.register_module("drift_reference", present)
    present.expect({k.removeprefix(f"{prefix}drift_reference.") for k in state})


def _blank(weight: AnalogWeight, count: int) -> DriftReference:
    outputs, inputs = weight.conductance.shape[1:]
    return DriftReference(weight.hardware, count, -(-outputs // weight.columns), inputs, weight.conductance.device)
