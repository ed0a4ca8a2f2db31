"""Write-and-verify: pulse devices and read them in turn until they store their targets.

This is the library's only write loop; closed-loop transfers of in-memory training use it too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from phasegrad.cells import Cell
from phasegrad.configuration import check_integer, check_number, check_type
from phasegrad.stores.device_array import DeviceArray
from phasegrad.stores.programming.base import ProgrammingMethod
from phasegrad.stores.programming.pulses import Pulses
from phasegrad.stores.programming.record import ProgrammingRecord, Round
from phasegrad.stores.programming.schedule import Rows, Schedule
from phasegrad.stores.programming.strategies import Run, Site, Strategy
from phasegrad.stores.programming.writer import Writer


@final
@dataclass(frozen=True, kw_only=True)
class WriteVerify(ProgrammingMethod):
    """Programming as a process: pulses and verify reads in turn, device by device, until a tolerance or a limit.

    A verify read has the noise of the device's own reads, as
    [`Device.averaging`][phasegrad.devices.Device] says of the mean of several: 1/f noise is mostly slower than a read,
    so that averaging helps little. Each verify read draws it anew, also that of devices with correlated noise. Devices
    drift until they are read, each from its own last pulse, which restarts its drift. A device whose error was
    once within the tolerance receives no further pulse.

    Args:
        strategy: says which pulse comes next.
        iterations: largest number of rounds of pulses after the preparation of the strategy.
        tolerance: error at which a device is left alone [S].
        reads: reads that a verify read averages.
        read_time: duration of one of them [s].
        read_voltage: voltage of a read [V], for its energy.
        bits: resolution of a verify read; ``None`` for no rounding.
        full_scale: conductance of the highest code of a read [S]; ``None`` for 1.2 times ``g_max``.
        schedule: order of pulses and reads, which sets the time.
        keep_pulses: whether the record keeps the pulses of every device, for export.

    References:
        Joshi, V. et al. Accurate deep neural network inference using computational phase-change memory. Nat. Commun.
        11, 2473 (2020), Methods. https://doi.org/10.1038/s41467-020-16108-9
    """

    strategy: Strategy
    iterations: int = 55
    tolerance: float = 0.25e-6
    reads: int = 5
    read_time: float = 1e-6
    read_voltage: float = 0.3
    bits: int | None = 8
    full_scale: float | None = None
    schedule: Schedule = field(default_factory=Rows)
    keep_pulses: bool = False

    def __post_init__(self) -> None:
        check_type(self, "strategy", Strategy)
        check_type(self, "schedule", Schedule)
        check_integer(self, "iterations", 1, 100_000)
        check_integer(self, "reads", 1, 1 << 20)
        check_number(self, "tolerance", 0.0, above=True)
        for name in ("read_time", "read_voltage"):
            check_number(self, name, 0.0)
        if self.bits is not None:
            check_integer(self, "bits", 1, 24)
        if self.full_scale is not None:
            check_number(self, "full_scale", 0.0, above=True)

    def check(self, cell: Cell) -> None:
        """Raise ``ValueError`` if the strategy cannot program the devices of a cell."""
        self.strategy.check(cell)
        highest = self.full_scale
        if highest is not None and highest < cell.device.g_max:
            raise ValueError(
                f"WriteVerify: full_scale = {highest:g} S, but targets reach g_max = {cell.device.g_max:g} S, which no "
                "verify read would see; give at least that, or None"
            )

    @torch.no_grad()
    def write(
        self, array: DeviceArray, relative: Tensor, now: Tensor, seed: Tensor, tile: tuple[int, int]
    ) -> ProgrammingRecord | None:
        """Program every cell; see [`ProgrammingMethod`][phasegrad.stores.programming.base.ProgrammingMethod]."""
        self.check(array.cell)
        targets = array.targets(relative) + array.target_offset
        if array.step_parameters is not None:
            array.draw_step_parameters(seed)
            targets = torch.maximum(targets, array.step_parameters[2])
        writer = Writer(array, targets, seed, tile, self.schedule, self.reads, self.read_time)
        planes = _pulsed_planes(array)
        site = Site(array.cell, targets.flatten(1), relative.flatten(), planes, writer.row, self.iterations)
        loop = _Loop(self, writer, site)
        while loop.step():
            pass
        writer.finish(targets, now)
        return loop.record(targets)

    def quantised(self, read: Tensor, g_max: float) -> Tensor:
        """A verify read as the converter reports it [S]."""
        if self.bits is None:
            return read
        unit = (self.full_scale or 1.2 * g_max) / (2**self.bits - 1)
        return read.div_(unit).round_().clamp_(max=2**self.bits - 1).mul_(unit)


def _pulsed_planes(array: DeviceArray) -> tuple[int, int]:
    """The devices of a cell that counted pulses reach; without a step law there are none."""
    if array.cell.device.steps is None:
        return (0, 0)
    return array.cell.pulsed(0) if array.updates is None else array.pulsed_planes


class _Loop:
    """One write loop: the cells that are still written, and what is known of each."""

    def __init__(self, method: WriteVerify, writer: Writer, site: Site) -> None:
        self.method, self.writer, self.site = method, writer, site
        self.run: Run = method.strategy.begin(site)
        self.cells = torch.arange(site.targets.shape[1], device=site.targets.device)
        self.read: Tensor | None = None
        self.unfinished = torch.ones_like(site.targets, dtype=torch.bool)
        self.attempt = 0
        self.residual = torch.zeros_like(site.targets)
        self.converged = torch.zeros_like(self.unfinished)
        self.rounds: list[Round] = []

    def step(self) -> bool:
        """One round of pulses and its verify read; false if it was the last."""
        method, writer = self.method, self.writer
        pulses = self.run.pulses(self.read, self.attempt, self.unfinished)
        if pulses is None:
            return False
        writer.apply(pulses, self.cells)
        self._keep(pulses)
        read = writer.verify(self.cells, method.read_voltage)
        read = method.quantised(read, self.site.cell.device.g_max)
        self.attempt += 1
        self._judge(read)
        return self.attempt < method.iterations + method.strategy.preparation and bool(len(self.cells))

    def _judge(self, read: Tensor) -> None:
        """Note the errors of the devices, and leave the cells in which none is too large."""
        residual = self.run.residual(read)
        self.residual[:, self.cells] = torch.where(self.unfinished, residual, self.residual[:, self.cells])
        if self.attempt >= self.method.strategy.preparation:
            self.unfinished &= residual.abs() > self.method.tolerance
            self.converged[:, self.cells] = ~self.unfinished
        open_cells = self.unfinished.any(0).nonzero().squeeze(1)
        if len(open_cells) < len(self.cells):
            self.run = self.run.keep(open_cells)
            self.cells, self.unfinished = self.cells[open_cells], self.unfinished[:, open_cells]
            read = read[:, open_cells]
        self.read = read

    def _keep(self, pulses: Pulses) -> None:
        if not self.method.keep_pulses:
            return
        kinds = {
            "current_A": pulses.amplitude,
            "set": pulses.fully_set,
            "seconds": pulses.seconds,
            "reset": pulses.reset,
            "count": None if pulses.counts is None else pulses.pulsed(),
        }
        found = ((kind, values) for kind, values in kinds.items() if values is not None)
        self.rounds += [Round(self.cells, kind, values) for kind, values in found]

    def record(self, targets: Tensor) -> ProgrammingRecord:
        writer, shape = self.writer, targets.shape
        per_tile = (part.view(writer.grid) for part in (writer.time, writer.energy, writer.reads))
        time, energy, reads = per_tile
        signs = tuple(1.0 if factor > 0.0 else -1.0 for factor in self.site.cell.factors)
        return ProgrammingRecord(
            self.converged.view(shape), writer.pulses.view(shape), self.residual.view(shape), targets, time, energy,
            reads, max(0, self.attempt - self.method.strategy.preparation), signs, self.rounds,
        )  # fmt: skip
