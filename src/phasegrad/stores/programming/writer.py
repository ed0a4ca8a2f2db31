"""The devices that a write loop writes: pulses on some of their cells, verify reads, and the clock of every tile."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from phasegrad.crossbar import streams
from phasegrad.devices import DeviceState
from phasegrad.ops.arguments import PulsedState, StepLaw
from phasegrad.ops.direct import call
from phasegrad.stores import pulsed_array
from phasegrad.stores.device_array import DeviceArray
from phasegrad.stores.programming.pulses import Pulses
from phasegrad.stores.programming.schedule import Geometry, Schedule

_FIRST = streams.TRANSFER + (1 << 31)
_PER_ROUND = 8
_VOLTAGE = 3.0
"""Highest voltage of a pulse [V], where the device states none."""
_NO_DRIFT = 1e-3
"""Relative change of a conductance that is neglected."""


class Writer:
    """Copies of the state of an array, flat ``[devices, cells]``, so that an error leaves the array as it was.

    Args:
        array: the devices; ``finish`` writes them.
        targets: target conductances ``[devices, out, in]`` [S].
        seed: seed of all draws.
        tile: rows (inputs) and columns (outputs) of a tile.
        schedule: order of pulses and reads.
        reads: reads that a verify read averages.
        seconds: duration of one of them [s].
    """

    def __init__(
        self, array: DeviceArray, targets: Tensor, seed: Tensor, tile: tuple[int, int], schedule: Schedule, reads: int,
        seconds: float,
    ) -> None:  # fmt: skip
        self.array, self.device, self.seed, self.schedule = array, array.cell.device, seed, schedule
        self.averaged, self.seconds = reads, seconds
        count, outputs, inputs = targets.shape
        averaging = self.device.averaging(reads, seconds)
        self.reader, self.independent = averaging or self.device, reads if averaging is None else 1
        self.trained = array.step_parameters is not None
        if self.trained:
            self.nu = array.nu.flatten(1)
        else:
            state = self.device.written(torch.zeros_like(targets), targets, seed, streams.PROGRAMMING)
            self.nu = state.nu.flatten(1)
        self.conductance = torch.zeros_like(self.nu)
        self.normals = self._fixed_normals(targets.shape)
        self.parameters = self._step_parameters(targets.shape)
        history = self.device.steps is not None and self.device.steps.has_history
        self.history = torch.ones_like(self.nu) if history else None
        self.stuck = None if array.stuck is None else array.stuck.flatten(1)
        self.pulses = torch.zeros(self.nu.shape, dtype=torch.int32, device=self.nu.device)
        self.geometry = Geometry(rows=min(tile[0], inputs), columns=min(tile[1], outputs), devices=count)
        place = torch.arange(outputs * inputs, device=self.nu.device)
        self.row, of_column = place % inputs % tile[0], place // inputs // tile[1]
        self.grid = (-(-inputs // tile[0]), -(-outputs // tile[1]))
        self.tile_of = place % inputs // tile[0] * self.grid[1] + of_column
        tiles = self.grid[0] * self.grid[1]
        self.time, self.energy = (torch.zeros(tiles, dtype=torch.float64, device=place.device) for _ in range(2))
        self.reads = torch.zeros(tiles, dtype=torch.int64, device=place.device)
        self.pulsed_at = torch.zeros(self.nu.shape, dtype=torch.float64, device=place.device)
        self.round = 0

    def _fixed_normals(self, shape: torch.Size) -> Tensor:
        """What distinguishes devices: current offset, SET conductance, speed of growth, ``[3, devices, cells]``."""
        found, needed = self.array.fixed_normals, self.device.amplitude or self.device.partial_set
        if needed is None:
            return self.nu.new_zeros(3, *self.nu.shape)
        if found is None:
            first = streams.LIFE + 5
            found = torch.stack([torch.ops.phasegrad.normal(self.seed, first + i, shape) for i in range(3)])
        return found.flatten(2)

    def _step_parameters(self, shape: torch.Size) -> Tensor | None:
        steps, cell = self.device.steps, self.array.cell
        if self.array.step_parameters is not None:
            return self.array.step_parameters.flatten(2)
        if steps is None:
            return None
        up, down = cell.pulsed(0)
        return steps.draw(tuple(shape), self.device.g_max, up == down, self.seed, streams.LIFE).flatten(2)

    @property
    def _stream(self) -> int:
        return _FIRST + _PER_ROUND * self.round

    def apply(self, pulses: Pulses, cells: Tensor) -> None:
        """Send a round of pulses to some cells, their indices, and advance the clocks of their tiles."""
        pulsed = pulses.pulsed()
        conductance = self.conductance[:, cells]
        conductance = self._melted(pulses, conductance, cells)
        conductance = self._set_and_reset(pulses, conductance, cells)
        if pulses.counts is not None:
            self._count(pulses, conductance, cells)
        if self.stuck is not None:
            stuck = self.stuck[:, cells]
            conductance = torch.where(stuck.isnan(), conductance, stuck)
        self.conductance[:, cells] = conductance
        self.pulses[:, cells] += pulsed
        self._pass_time(pulses, pulsed, cells)

    def _melted(self, pulses: Pulses, conductance: Tensor, cells: Tensor) -> Tensor:
        curve, amplitude = self.device.amplitude, pulses.amplitude
        if amplitude is None:
            return conductance
        assert curve is not None
        noise = torch.ops.phasegrad.normal(self.seed, self._stream + 2, conductance.shape)
        after = curve.conductance(amplitude, self.normals[0, :, cells], self.normals[1, :, cells], noise)
        return torch.where(amplitude > 0.0, after, conductance)

    def _set_and_reset(self, pulses: Pulses, conductance: Tensor, cells: Tensor) -> Tensor:
        if pulses.fully_set is not None:
            assert self.device.amplitude is not None
            after = self.device.amplitude.fully_set(self.normals[1, :, cells])
            conductance = torch.where(pulses.fully_set, after, conductance)
        if pulses.seconds is not None:
            assert self.device.partial_set is not None
            noise = torch.ops.phasegrad.normal(self.seed, self._stream + 3, conductance.shape)
            fixed = self.normals[2, :, cells]
            conductance = self.device.partial_set.after(conductance, pulses.seconds, fixed, noise)
        if pulses.reset is not None:
            conductance = torch.where(pulses.reset, self._after_reset(cells, conductance), conductance)
            if self.history is not None:
                self.history[:, cells] = self.history[:, cells].masked_fill(pulses.reset, 1.0)
        return conductance

    def _after_reset(self, cells: Tensor, like: Tensor) -> Tensor:
        if self.parameters is not None:
            assert self.device.steps is not None
            return self.device.steps.after_reset(self.parameters[2][:, cells], self.seed, self._stream + 4)
        return torch.full_like(like, self.device.partial_set.lowest if self.device.partial_set else self.device.lowest)

    def _count(self, pulses: Pulses, conductance: Tensor, cells: Tensor) -> None:
        """Send counted pulses to devices with a step law, in place."""
        assert self.parameters is not None
        assert self.device.steps is not None
        history = None if self.history is None else self.history[:, cells].unsqueeze(1)
        times = torch.zeros(conductance.unsqueeze(1).shape, dtype=torch.float64, device=conductance.device)
        state = PulsedState(conductance.unsqueeze(1), history, times if self.array.pulsed_at is not None else None)
        coefficients = torch.tensor(
            self.device.steps.coefficients(self.device.g_max), dtype=torch.float32, device=conductance.device
        )
        law = StepLaw(pulses.planes, self.device.steps.family, coefficients)
        parameters, counts = self.parameters[:, :, cells].unsqueeze(2), pulses.counts
        assert counts is not None
        call(
            "pulse_counts", state, pulsed_array.UNTRACKED, parameters.contiguous(), counts.unsqueeze(0), 0.0, law,
            self.seed, self._stream + 5,
        )  # fmt: skip
        if history is not None and self.history is not None:
            self.history[:, cells] = history.squeeze(1)

    def _pass_time(self, pulses: Pulses, pulsed: Tensor, cells: Tensor) -> None:
        of_cell, tiles = self.tile_of[cells], len(self.time)
        number = torch.bincount(of_cell, pulsed.sum(0).double(), tiles)
        duration = self.schedule.pulse_time(number, pulses.longest, self.geometry)
        moment = self.time[of_cell] + self._fraction(cells) * duration[of_cell]
        self.pulsed_at[:, cells] = torch.where(pulsed > 0, moment, self.pulsed_at[:, cells])
        self.time += duration
        self.energy += torch.bincount(of_cell, self._energy(pulses).sum(0).double(), tiles)

    def _fraction(self, cells: Tensor) -> Tensor:
        """When a row is written, as a fraction of the round; rows are written one after another."""
        return (self.row[cells].double() + 0.5) / self.geometry.rows

    def _energy(self, pulses: Pulses) -> Tensor:
        """Energy of every pulse [J], an upper bound; pulses of a step law state no current and count 0."""
        curve, law = self.device.amplitude, self.device.partial_set
        voltage = curve.voltage if curve else _VOLTAGE
        energy = torch.zeros_like(pulses.pulsed(), dtype=torch.float32)
        if pulses.amplitude is not None:
            energy = energy.add(pulses.amplitude, alpha=voltage * pulses.duration)
        if pulses.fully_set is not None:
            energy = energy.add(pulses.fully_set, alpha=voltage * pulses.set_current * pulses.set_duration)
        if pulses.seconds is not None and law is not None:
            energy = energy.add(pulses.seconds, alpha=voltage * law.current)
        return energy

    def verify(self, cells: Tensor, voltage: float) -> Tensor:
        """Read some cells ``[devices, n]`` [S] with the noise of the mean of several reads, and pass the time."""
        reads, seconds = self.averaged, self.seconds
        of_cell, tiles = self.tile_of[cells], len(self.time)
        number = torch.bincount(of_cell, minlength=tiles) * self.geometry.devices
        duration = self.schedule.read_time(number, reads * seconds, self.geometry)
        moment = self.time[of_cell] + self._fraction(cells) * duration[of_cell]
        state = DeviceState(self.conductance[:, cells], self.nu[:, cells])
        read = self._mean_of_reads(state, self._age(state, moment, cells))
        self.time += duration
        self.reads += number * reads
        energy = read.sum(0).double().mul_(voltage * voltage * reads * seconds)
        self.energy += torch.bincount(of_cell, energy, tiles)
        self.round += 1
        return read

    def read(self, cells: Tensor) -> Tensor:
        """Conductances ``[devices, n]`` [S] as one product sees them now, which takes no time of its own."""
        state = DeviceState(self.conductance[:, cells], self.nu[:, cells])
        self.round += 1
        return self._mean_of_reads(state, self._age(state, self.time[self.tile_of[cells]], cells))

    def _age(self, state: DeviceState, moment: Tensor, cells: Tensor) -> Tensor:
        """Time since the last pulse [s], one for all devices if that makes no difference."""
        none = torch.zeros((), dtype=torch.float64, device=moment.device)
        return none if self._still(state, self.time.max()) else moment - self.pulsed_at[:, cells]

    def _still(self, state: DeviceState, seconds: Tensor) -> bool:
        """Whether a time changes the conductances of devices by next to nothing."""
        if not self.device.drifts_within(float(seconds)):
            return True
        if self.array.pulsed_at is not None:  # training does not count the time of a transfer
            return True
        some = DeviceState(*(part[:, : 1 << 12] for part in state[:2]))
        change = self.reader.drift(some, seconds) - self.reader.drift(some, torch.zeros_like(seconds))
        return bool((change.abs() <= _NO_DRIFT * some.conductance).all())

    def _mean_of_reads(self, state: DeviceState, age: Tensor) -> Tensor:
        if not self.reader.reads_are_noisy:
            return self.reader.drift(state, age) if float(age.max()) > 0.0 else state.conductance
        moments = self.reader.read_moments(state, age)
        if moments is not None:
            noise = torch.ops.phasegrad.normal(self.seed, self._stream, state.conductance.shape)
            return noise.mul_(moments.sd).mul_(self.independent**-0.5).add_(moments.mean).clamp_(min=0.0)
        read = self.reader.read(state, age, self.seed, self._stream)
        if self.independent == 1:
            return read
        return torch.lerp(self.reader.drift(state, age), read, 1.0 / math.sqrt(self.independent))

    def finish(self, targets: Tensor, now: Tensor) -> None:
        """Write the devices of the array; their time 0 is the end of the process.

        Training does not count the time of a transfer, and devices that are trained keep their exponents.
        """
        array, shape = self.array, targets.shape
        if self.trained:
            array.keep_pulsed(self.conductance.view(shape), self.history, now)
            return
        state = self.device.written(self.conductance.view(shape), targets, self.seed, streams.PROGRAMMING)
        last = self.time.max()
        still = self._still(DeviceState(self.conductance, self.nu), last)
        responds = self.device.amplitude is not None or self.device.partial_set is not None
        normals = self.normals.view(3, *shape) if responds else None
        array.keep_written(state, None if still else now - last + self.pulsed_at.view(shape), normals, now)
        if array.noise_seed is not None:
            array.noise_seed.copy_(self.seed)
