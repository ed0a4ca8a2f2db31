"""An array of devices of one kind for one matrix: state, reads, time, and programming.

``phasegrad.stores.pulsed_array`` sends pulses to it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Set
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from phasegrad.cells import Cell
from phasegrad.crossbar import streams
from phasegrad.crossbar.materialisation import loses_values
from phasegrad.crossbar.pulses import Pulses
from phasegrad.devices import CellSum, DeviceState, ReadMoments
from phasegrad.ops.direct import call, readable
from phasegrad.ops.pulses import CROSSINGS
from phasegrad.ops.repeated_update import RepeatedUpdate
from phasegrad.stores.kept_reads import KeptReads
from phasegrad.stores.known_numbers import number
from phasegrad.stores.registered import Registered
from phasegrad.stores.stuck_devices import corrected_targets


class DeviceArray(nn.Module):
    """Devices of one kind. The caller passes the time, in seconds since the chip was first programmed.

    The buffers are float32, float64 or int64 and part of the state dict; ``.half()`` and ``.to(dtype)`` never round
    them.

    Args:
        zeroed: whether conductances start at 0; otherwise they are undefined until they are programmed.

    Attributes:
        cell: unit cell, which maps conductances to weights.
        pulses: pulse trains of updates, or ``None``.
        max_weight: the weight that a fully programmed cell represents; ``None`` if scales differ between columns.
        conductance: ``[devices, out, in]`` right after programming, or after the last pulse [S].
        nu: drift exponents, of the same shape.
        programmed_at: time of programming [s], float64, one for all devices.
        step_parameters: ``[4, devices, out, in]``, fixed at fabrication: step up, step down, lowest and highest
            conductance of each device [S]; ``None`` if no pulses are sent.
        history: ``[devices, out, in]``, past pulses of devices whose steps depend on them, or ``None``.
        pulsed_at: ``[devices, out, in]``, time of the last pulse of devices whose drift a pulse restarts [s], float64,
            or ``None``.
        written_at: ``[devices, out, in]``, time of the last pulse in a write loop that took long enough to matter [s],
            float64; otherwise ``None``, and then not in the state dict.
        updates: number of updates so far, or ``None``.
        noise: ``[planes, devices, out, in]``, state of correlated noise, or ``None``.
        noise_seed: seed of the correlated noise, int64 ``[1]``, or ``None``.
        heat: temperature and its past effect on drift, see [`DeviceState`][phasegrad.devices.DeviceState], or ``None``.
        stuck: ``[devices, out, in]``, conductances of devices that neither respond nor drift [S], NaN for the others;
            ``None`` if no faults are known, and then not in the state dict.
        fixed_normals: ``[3, devices, out, in]``, standard normals that distinguish the devices in write-and-verify,
            fixed at fabrication; ``None`` if it was never used, and then not in the state dict.
        corrects_stuck: 1 if programming lets the other devices of a cell take up what stuck ones lack, otherwise
            ``None``.
    """

    optional: ClassVar[tuple[str, ...]] = ("stuck", "corrects_stuck", "fixed_normals", "written_at")
    """Buffers that may be ``None`` and then have no entry in the state dict."""

    conductance = Registered[Tensor]()
    nu = Registered[Tensor]()
    programmed_at = Registered[Tensor]()
    step_parameters = Registered["Tensor | None"]()
    history = Registered["Tensor | None"]()
    pulsed_at = Registered["Tensor | None"]()
    updates = Registered["Tensor | None"]()
    noise = Registered["Tensor | None"]()
    noise_seed = Registered["Tensor | None"]()
    heat = Registered["Tensor | None"]()
    stuck = Registered["Tensor | None"]()
    corrects_stuck = Registered["Tensor | None"]()
    fixed_normals = Registered["Tensor | None"]()
    written_at = Registered["Tensor | None"]()

    def __init__(
        self, cell: Cell, pulses: Pulses | None, max_weight: float | None, shape: tuple[int, int], device: Any = None,
        zeroed: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.cell, self.pulses, self.max_weight = cell, pulses, max_weight
        cells = (len(cell.factors), *shape)
        blank = torch.zeros((), dtype=torch.float32, device=device).expand(cells)
        for name in ("conductance", "nu"):
            self.register_buffer(name, blank.clone() if zeroed else torch.empty_like(blank).contiguous())
        self.kept_reads, self.repeated_update = KeptReads(), RepeatedUpdate()
        self.register_buffer("programmed_at", torch.zeros((), dtype=torch.float64, device=device))
        steps = cell.device.steps if pulses is not None else None
        self.register_buffer("step_parameters", blank.expand(4, *cells).clone() if steps else None)
        self.register_buffer("history", blank.clone() if steps and steps.has_history else None)
        restarts = steps is not None and cell.device.drifts and not self.leaks
        self.register_buffer("pulsed_at", blank.clone().double() if restarts else None)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64, device=device) if steps else None)
        planes, heat = cell.device.planes, cell.device.heat()
        self.register_buffer("noise", blank.expand(planes, *cells).clone() if planes else None)
        self.register_buffer("noise_seed", torch.zeros(1, dtype=torch.int64, device=device) if planes else None)
        self.register_buffer("heat", None if heat is None else heat.to(device))
        for name in self.optional:
            self.register_buffer(name, None)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.kept_reads, self.repeated_update = KeptReads(), RepeatedUpdate()  # files of 0.1.0 have none
        for name in self.optional:  # nor have they faults
            self._buffers.setdefault(name, None)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DeviceArray:
        def keep_dtype(buffer: Tensor) -> Tensor:
            target = fn(buffer)
            return target if target.dtype == buffer.dtype else buffer.to(target.device)

        self.kept_reads.clear()
        self.repeated_update = RepeatedUpdate()
        super()._apply(keep_dtype, recurse)
        if loses_values(fn):
            self.expect(frozenset())
            self.clear()
        return self

    @torch.no_grad()
    def clear(self) -> None:
        """Set the state to that of unprogrammed devices, with NaN for conductances that must be loaded.

        Devices that are stuck stay so.
        """
        for name, buffer in self._buffers.items():
            if buffer is not None and name not in self.optional:
                buffer.zero_()
        self.conductance.fill_(torch.nan)
        if self.heat is not None and (heat := self.cell.device.heat()) is not None:
            self.heat.copy_(heat)

    @property
    def leaks(self) -> bool:
        """Whether the conductance alone determines further drift, so that a leak can be applied at any time."""
        return self.cell.device.drifts and self.cell.device.leak(0.0) is not None

    @property
    def state(self) -> DeviceState:
        """The state of the devices, without copies."""
        return DeviceState(self.conductance, self.nu, self.noise, self.heat)

    @property
    def _drift_start(self) -> Tensor:
        """When drift started, for each device if their last pulses were at different times."""
        last = self.written_at if self.pulsed_at is None else self.pulsed_at
        return self.programmed_at if last is None else last

    def drift_time(self, now: Tensor) -> Tensor:
        """Time since programming [s], or since each device's last pulse."""
        return now - self._drift_start

    def drifted(self, now: Tensor) -> bool:
        """Whether present conductances may differ from the stored ones."""
        if self.heat is not None:
            return True
        return self.cell.device.drifts and self.cell.device.drifts_within(number(now) - number(self.programmed_at))

    def present(self, now: Tensor) -> Tensor:
        """Conductances ``[devices, out, in]`` [S], drifted, without read noise."""
        if not self.drifted(now):
            return self.conductance
        drifted = self.cell.device.drift(self.state, self.drift_time(now))
        return drifted if self.stuck is None else torch.where(self.stuck.isnan(), drifted, self.stuck)

    def read(self, now: Tensor, seed: Tensor, offset: int = streams.DEVICES) -> Tensor:
        """Conductances ``[devices, out, in]`` [S] as one read sees them."""
        return self._read(self.state, self.stuck, self.drift_time(now), seed, offset)

    def _read(self, state: DeviceState, stuck: Tensor | None, age: Tensor, seed: Tensor, offset: int) -> Tensor:
        device = self.cell.device
        read = device.read(state, age, seed, offset)
        if stuck is None or device.drifts_by_exponent:
            return read
        noise = read - device.drift(state, age)
        return torch.where(stuck.isnan(), read, (stuck + noise).clamp(min=0.0))

    @property
    def _must_hold_reads(self) -> bool:
        """Whether stuck devices would drift in the reads of the device itself."""
        return self.stuck is not None and not self.cell.device.drifts_by_exponent

    def read_sum(self, now: Tensor, seed: Tensor, cells: CellSum, *, noisy: bool) -> Tensor | None:
        """The sum ``[out, in]`` of the devices of each cell in one pass, or ``None`` if that is not possible."""
        conductance, device = self.conductance, self.cell.device
        if not noisy and not self.drifted(now):
            return call("noisy_cells", conductance, None, seed, streams.DEVICES, *cells)
        if self._must_hold_reads:
            return None
        moments = self._kept_moments(now) if noisy else None
        if moments is not None:
            return call("noisy_cells", *moments, seed, streams.DEVICES, *cells)
        return device.read_cells(self.state, self.drift_time(now), seed, streams.DEVICES, cells, noisy)

    def _kept_moments(self, now: Tensor) -> ReadMoments | None:
        """The moments of reads at this time, from the second read on; ``None`` if they are not kept."""
        if not self._keeps_reads(now):
            return None
        make = functools.partial(self.cell.device.read_moments, self.state, self.drift_time(now))
        return self.kept_reads.get("devices", self._read_state(now), make, at_once=False)

    def _keeps_reads(self, now: Tensor) -> bool:
        plain = self.pulsed_at is None and self.written_at is None and self.pulses is None and not self._must_hold_reads
        return plain and readable(self.conductance) and readable(now)

    def _read_state(self, now: Tensor) -> tuple[Tensor, ...]:
        """What a read depends on, besides its seed."""
        return (self.conductance, self.nu, self.programmed_at, now)

    def read_rows(self, rows: Tensor, now: Tensor, seed: Tensor, offset: int = streams.DEVICES) -> Tensor:
        """Weights ``[out, rows]`` of the rows (inputs) with these indices, as one read sees them.

        The cost is proportional to the number of rows, not to the size of the array.
        """
        assert self.max_weight is not None
        device, conductance = self.cell.device, self.conductance.index_select(-1, rows)
        if not device.reads_are_noisy and not device.drifts:
            return self.cell.weight(conductance) * self.max_weight
        start = self._drift_start
        since = start.index_select(-1, rows) if start.dim() else start
        stuck = None if self.stuck is None else self.stuck.index_select(-1, rows)
        state = DeviceState(conductance, self.nu.index_select(-1, rows))
        read = self._read(state, stuck, now - since, seed, offset)
        return self.cell.weight(read) * self.max_weight

    @property
    def factors(self) -> list[float]:
        """The weight at zero conductance, then the weight per conductance of each plane [1/S]."""
        assert self.max_weight is not None
        scaled = [self.max_weight * f / self.cell.device.window for f in self.cell.factors]
        return [self.max_weight * self.cell.offset, *scaled]

    @property
    def dw_min(self) -> float:
        """Change of the weight per nominal pulse."""
        cell = self.cell
        assert self.max_weight is not None
        return self.max_weight * abs(cell.factors[cell.pulsed(0)[0]]) * self._nominal_step / cell.device.g_max

    @functools.cached_property
    def _nominal_step(self) -> float:
        """Step of a device at a weight of 0 [S]."""
        device, (up, down) = self.cell.device, self.cell.pulsed(0)
        assert device.steps is not None
        at_zero = self.cell.targets(torch.zeros(1, dtype=torch.float64))[up].item()
        return device.steps.nominal(at_zero / device.g_max, up == down)

    @functools.cached_property
    def train_rule(self) -> tuple[float, int, bool, bool, int]:
        """How gradients become pulse trains: the fields of ``TrainRule`` after the learning rate."""
        pulses = self.pulses
        assert pulses is not None
        return self.dw_min, pulses.length, pulses.bl_management, pulses.update_management, pulses.code

    @functools.cached_property
    def step_family(self) -> int:
        """The step law of the devices; see ``phasegrad.ops.pulses``."""
        assert self.cell.device.steps is not None
        return self.cell.device.steps.family

    @functools.cached_property
    def step_coefficients(self) -> Tensor:
        """The numbers of that law, float32, on the device of the first update."""
        device = self.cell.device
        assert device.steps is not None
        return torch.tensor(
            device.steps.coefficients(device.g_max), dtype=torch.float32, device=self.conductance.device
        )

    @property
    def most_pulses(self) -> int:
        """The most counted pulses of one update: they cross the window of a nominal device several times."""
        device = self.cell.device
        assert device.steps is not None
        return math.ceil(CROSSINGS * device.window / device.steps.size)

    @property
    def pulsed_planes(self) -> tuple[int, int]:
        """The planes that the next update pulses to increase a weight, and to decrease it."""
        assert self.updates is not None
        return self.cell.pulsed(int(number(self.updates)))

    def advance(self, now: Tensor, until: float, temperature: float | None = None) -> None:
        """Advance correlated noise and heat to a time [s], at a temperature [K] or the present one.

        The noise is a function of the seed of the programming and of the times at which it was evaluated.

        Raises:
            ValueError: the temperature is outside the range of the devices' laws; nothing was changed.
        """
        self.kept_reads.clear()
        device, programmed_at = self.cell.device, float(self.programmed_at)
        if temperature is not None:
            device.check_temperature(temperature)
            assert self.heat is not None
            self.heat[0] = temperature
        if device.stateful_fields:
            seed = torch.zeros(1, dtype=torch.int64) if self.noise_seed is None else self.noise_seed
            seed = seed + torch.tensor(until, dtype=torch.float64).view(torch.int64).to(seed.device)
            device.advance(self.state, float(now) - programmed_at, until - programmed_at, seed, streams.NOISE)

    @torch.no_grad()
    def program(self, relative: Tensor, now: Tensor, seed: Tensor) -> None:
        """Program every cell to a weight in [-1, 1]."""
        if self.step_parameters is None:
            self._store(self._programmed(relative, seed), now)
        else:
            self.draw_step_parameters(seed)
            state, history = self.write(self.targets(relative), self.step_parameters, seed)
            self._store(state, now)
            if self.history is not None:
                self.history.copy_(history)
        if self.noise_seed is not None:
            self.noise_seed.copy_(seed)

    def _programmed(self, relative: Tensor, seed: Tensor) -> DeviceState:
        if self.corrects_stuck is None:
            return self.cell.program(relative, seed, streams.PROGRAMMING)
        return self.cell.device.program(self.targets(relative), seed, streams.PROGRAMMING)

    def targets(self, relative: Tensor, stuck: Tensor | None = None) -> Tensor:
        """Target conductances ``[devices, *shape]`` [S] of weights in [-1, 1].

        Args:
            relative: weights ``[*shape]``.
            stuck: stuck devices ``[devices, *shape]``; ``None`` for those of this array, whose shape the weights have.
        """
        return self.correct(self.cell.targets(relative), relative, stuck)

    def correct(self, targets: Tensor, relative: Tensor, stuck: Tensor | None = None) -> Tensor:
        """Targets [S] that allow for stuck devices, if ``corrects_stuck``; arguments as for ``targets``."""
        stuck = self.stuck if stuck is None else stuck
        if self.corrects_stuck is None or stuck is None:
            return targets
        offset, cell = self.target_offset, self.cell
        lowest = max(cell.device.lowest, offset)
        return corrected_targets(cell, targets + offset, relative, stuck, lowest) - offset

    def hold_stuck(self) -> None:
        """Return stuck devices to their conductances, after a write that did not know of them."""
        if self.stuck is not None:
            held = self.cell.device.hold(self.state, self.stuck)
            self.conductance.copy_(held.conductance)
            self.nu.copy_(held.nu)

    @property
    def target_offset(self) -> float:
        """Conductance added to all targets [S]: that of RESET, in cells whose weight is a difference of conductances.

        Without it, such a cell would lack the conductance of the device at RESET.
        """
        steps = self.cell.device.steps
        differential = abs(sum(self.cell.factors)) < 1e-9
        return steps.lowest if steps is not None and differential else 0.0

    def write(self, targets: Tensor, step_parameters: Tensor, seed: Tensor) -> tuple[DeviceState, Tensor]:
        """RESET devices that pulses can change, and program them to targets of the cell.

        Args:
            targets: ``[devices, ...]`` [S]; 0 leaves a device at RESET.
            step_parameters: ``[4, devices, ...]`` of these devices.
            seed: seed of the draws.

        Returns:
            The state and the history of the devices, of the shape of ``targets``.
        """
        device, steps, (low, high) = self.cell.device, self.cell.device.steps, step_parameters[2:]
        assert steps is not None
        raised = targets + self.target_offset if self.target_offset else targets
        state = device.program(raised, seed, streams.PROGRAMMING)
        conductance, history = state.conductance.clamp(low, high), steps.history_of(raised)
        if self.target_offset:
            at_reset = targets <= 1e-6 * device.g_max  # a difference of two conductances may be rounded
            spread = steps.after_reset(low, seed, streams.RESET) - low
            conductance = torch.where(at_reset, (conductance + spread).clamp(min=0.0), conductance)
            history = history.masked_fill(at_reset, 1.0)
        return state._replace(conductance=conductance), history

    def _store(self, state: DeviceState, now: Tensor) -> None:
        if self.stuck is not None:
            state = self.cell.device.hold(state, self.stuck)
        if self.noise is not None and state.noise is not None:
            self.noise.copy_(state.noise)
        if self.heat is not None:
            self.heat[1] = 0.0
        # New tensors, not copies into the old ones: a chip's peak memory stays close to its size.
        self.conductance = state.conductance.to(self.conductance).contiguous()
        self.nu = state.nu.to(self.nu).contiguous()
        self.programmed_at.copy_(now)
        if self.pulsed_at is not None:
            self.pulsed_at.copy_(now)
        self.written_at = None

    def keep_written(
        self, state: DeviceState, written_at: Tensor | None, fixed_normals: Tensor | None, now: Tensor
    ) -> None:
        """Keep the state that a write loop left.

        Args:
            state: the devices.
            written_at: time of each device's last pulse [s], float64; ``None`` for the present time.
            fixed_normals: what distinguishes the devices, ``[3, devices, out, in]``; ``None`` for no change.
            now: present time [s].
        """
        self._store(state, now)
        self.written_at = written_at
        if fixed_normals is not None:
            self.fixed_normals = fixed_normals

    def keep_pulsed(self, conductance: Tensor, history: Tensor | None, now: Tensor) -> None:
        """Keep conductances [S] and the history that the pulses of a write loop left in devices that are trained."""
        self.conductance.copy_(conductance)
        if self.history is not None and history is not None:
            self.history.copy_(history.view_as(self.history))
        if self.pulsed_at is not None:
            self.pulsed_at.copy_(now)

    def draw_step_parameters(self, seed: Tensor) -> None:
        """Draw the parameters of the devices, at the first programming only."""
        cell, steps = self.cell, self.cell.device.steps
        assert steps is not None
        assert self.step_parameters is not None
        if not bool(self.step_parameters.any()):
            up, down = cell.pulsed(0)
            shape = tuple(self.conductance.shape)
            self.step_parameters.copy_(steps.draw(shape, cell.device.g_max, up == down, seed, streams.LIFE))
            if self.stuck is not None:
                self._immobilise(self.stuck)

    def _immobilise(self, stuck: Tensor) -> None:
        """Give stuck devices steps of 0, and bounds that contain their conductances."""
        assert self.step_parameters is not None
        up, down, low, high = self.step_parameters
        for step in (up, down):
            step.masked_fill_(~stuck.isnan(), 0.0)
        low.copy_(torch.fmin(low, stuck))  # where one of the two is NaN, the other one
        high.copy_(torch.fmax(high, stuck))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *arguments: Any, **named: Any
    ) -> None:
        self.expect({key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)})
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *arguments, **named)

    def expect(self, keys: Set[str]) -> None:
        """Have those optional buffers that are about to be loaded, and no others: a state is loaded as a whole."""
        for name in self.optional:
            if (getattr(self, name) is None) == (name in keys):
                self.register_buffer(name, self.blank(name) if name in keys else None)

    def blank(self, name: str) -> Tensor:
        """An optional buffer before it is loaded."""
        if name == "stuck":
            return torch.full_like(self.conductance, torch.nan)
        if name == "fixed_normals":
            return self.conductance.new_zeros(3, *self.conductance.shape)
        if name == "written_at":
            return torch.zeros_like(self.conductance, dtype=torch.float64)
        return torch.ones((), dtype=torch.int64, device=self.conductance.device)
