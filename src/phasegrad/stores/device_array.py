"""Cells of one kind for one matrix: the state of their devices, and the pulses they take."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from phasegrad.cells import Cell
from phasegrad.crossbar import streams
from phasegrad.crossbar.pulses import Pulses
from phasegrad.devices import Device, DeviceState
from phasegrad.ops.arguments import PulsedState, StepLaw, TrackedWeight, TrainRule
from phasegrad.ops.direct import call

UNTRACKED = TrackedWeight(None, None, ())

T = TypeVar("T")


class Found(Generic[T]):
    """A module's buffer or submodule as an attribute of its class, which Python finds at once.

    ``nn.Module`` searches its registries only after the ordinary search has failed: 0.5 us, hundreds of times a step.
    """

    def __init__(self, registry: str = "_buffers") -> None:
        self.registry = registry

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, module: nn.Module, owner: type | None = None) -> T:
        try:
            return module.__dict__[self.registry][self.name]
        except KeyError:  # not registered yet
            raise AttributeError(f"{type(module).__name__} has no {self.name}") from None


class DeviceArray(nn.Module):
    """Devices of one kind. Time is given by the caller, in seconds since the chip was programmed first.

    Buffers, float32 and float64, in the state dict; ``.half()`` and ``.to(dtype)`` never round them.

    Attributes:
        cell: how they make a weight.
        pulses: how they are pulsed, or ``None``.
        max_weight: the weight that a fully programmed cell represents; ``None`` if scales differ between columns.
        conductance: ``[devices, out, in]`` right after programming, or after the last pulse [S].
        nu: drift exponents, the same shape.
        programmed_at: time of programming [s], float64, one for all.
        step_parameters: ``[4, devices, out, in]``, what each device is for life: step up, step down, lowest, highest
            conductance [S]; ``None`` where no pulse is sent.
        history: ``[devices, out, in]``, what devices whose steps depend on their past remember, or ``None``.
        pulsed_at: ``[devices, out, in]``, time of the last pulse of devices whose drift a pulse restarts [s], float64,
            or ``None``.
        updates: how many updates the devices have had, or ``None``.
        noise: ``[planes, devices, out, in]``, what noise remembers, or ``None``.
        noise_seed: of all that happens to it, int64 ``[1]``, or ``None``.
        heat: temperature and what it has done to drift, see :class:`phasegrad.devices.DeviceState`, or ``None``.
    """

    conductance = Found[Tensor]()
    nu = Found[Tensor]()
    programmed_at = Found[Tensor]()
    step_parameters = Found["Tensor | None"]()
    history = Found["Tensor | None"]()
    pulsed_at = Found["Tensor | None"]()
    updates = Found["Tensor | None"]()
    noise = Found["Tensor | None"]()
    noise_seed = Found["Tensor | None"]()
    heat = Found["Tensor | None"]()

    def __init__(
        self, cell: Cell, pulses: Pulses | None, max_weight: float | None, shape: tuple[int, int], device: Any = None
    ) -> None:
        super().__init__()
        self.cell, self.pulses, self.max_weight = cell, pulses, max_weight
        cells = (len(cell.factors), *shape)
        blank = torch.zeros(cells, dtype=torch.float32, device=device)
        for name in ("conductance", "nu"):
            self.register_buffer(name, blank.clone())
        self.register_buffer("programmed_at", torch.zeros((), dtype=torch.float64, device=device))
        steps = cell.device.steps if pulses is not None else None
        self.register_buffer("step_parameters", blank.expand(4, *cells).clone() if steps else None)
        self.register_buffer("history", blank if steps and steps.has_history else None)
        restarts = steps is not None and cell.device.drifts and not self.leaks
        self.register_buffer("pulsed_at", blank.double() if restarts else None)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64, device=device) if steps else None)
        planes, heat = cell.device.planes, cell.device.heat()
        self.register_buffer("noise", blank.expand(planes, *cells).clone() if planes else None)
        self.register_buffer("noise_seed", torch.zeros(1, dtype=torch.int64, device=device) if planes else None)
        self.register_buffer("heat", None if heat is None else heat.to(device))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DeviceArray:
        def move(buffer: Tensor) -> Tensor:
            target = fn(buffer)
            return target if target.dtype == buffer.dtype else buffer.to(target.device)

        return super()._apply(move, recurse)

    # --- reading ----------------------------------------------------------------------------------------------

    @property
    def leaks(self) -> bool:
        """Whether the conductance alone tells how a device drifts on, so that it can be taken in at any time."""
        return self.cell.device.drifts and self.cell.device.leak(0.0) is not None

    @property
    def state(self) -> DeviceState:
        """What the devices remember."""
        return DeviceState(self.conductance, self.nu, self.noise, self.heat)

    def since_written(self, now: Tensor) -> Tensor:
        """Time since programming [s], or since each device's last pulse."""
        return now - (self.programmed_at if self.pulsed_at is None else self.pulsed_at)

    def present(self, now: Tensor) -> Tensor:
        """Conductances ``[devices, out, in]`` [S], drifted, without read noise."""
        return self.cell.device.drift(self.state, self.since_written(now)) if self.drifted(now) else self.conductance

    def drifted(self, now: Tensor) -> bool:
        """Whether a conductance may differ by now from what was written."""
        if self.heat is not None:
            return True
        return self.cell.device.drifts and self.cell.device.drifts_within(float(now) - float(self.programmed_at))

    def read(self, now: Tensor, seed: Tensor, offset: int = streams.DEVICES) -> Tensor:
        """Conductances ``[devices, out, in]`` [S] as one read sees them."""
        return self.cell.device.read(self.state, self.since_written(now), seed, offset)

    @property
    def factors(self) -> list[float]:
        """Weight over conductance of each plane [1/S], and before them the weight where nothing conducts."""
        assert self.max_weight is not None
        scaled = [self.max_weight * f / self.cell.device.window for f in self.cell.factors]
        return [self.max_weight * self.cell.offset, *scaled]

    # --- time -------------------------------------------------------------------------------------------------

    def advance(self, now: Tensor, until: float, temperature: float | None = None) -> None:
        """Let noise and heat do to the devices what they do until a time [s], at a temperature [K] or the present one.

        Noise is a function of the seed that the devices were programmed with and of the times that were stopped at.

        Raises:
            ValueError: the devices' laws do not reach that temperature; nothing was changed.
        """
        device, written = self.cell.device, float(self.programmed_at)
        if temperature is not None:
            device.check_temperature(temperature)
            assert self.heat is not None
            self.heat[0] = temperature
        if device.stateful_fields:
            seed = torch.zeros(1, dtype=torch.int64) if self.noise_seed is None else self.noise_seed
            seed = seed + torch.tensor(until, dtype=torch.float64).view(torch.int64).to(seed.device)
            device.advance(self.state, float(now) - written, until - written, seed, streams.NOISE)

    # --- programming ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def program(self, relative: Tensor, now: Tensor, seed: Tensor) -> None:
        """Program every cell to a weight in [-1, 1]."""
        self._write(self.cell.program(relative, seed, streams.PROGRAMMING), now)
        if self.noise_seed is not None:
            self.noise_seed.copy_(seed)
        self._make_trainable(seed)

    def _write(self, state: DeviceState, now: Tensor) -> None:
        if self.noise is not None and state.noise is not None:
            self.noise.copy_(state.noise)
        if self.heat is not None:
            self.heat[1] = 0.0
        self.conductance.copy_(state.conductance)
        self.nu.copy_(state.nu)
        self.programmed_at.copy_(now)
        if self.pulsed_at is not None:
            self.pulsed_at.copy_(now)

    def _make_trainable(self, seed: Tensor) -> None:
        """Draw what the devices are for life, if they have not been used yet, and forget their past."""
        cell, steps = self.cell, self.cell.device.steps
        if steps is None or self.step_parameters is None:
            return
        if not bool(self.step_parameters.any()):
            up, down = cell.pulsed(0)
            shape = tuple(self.conductance.shape)
            self.step_parameters.copy_(steps.draw(shape, cell.device.g_max, up == down, seed, streams.LIFE))
        self.conductance.clamp_(*self.step_parameters[2:])
        if self.history is not None:
            self.history.fill_(1.0)

    # --- pulses -----------------------------------------------------------------------------------------------

    @property
    def dw_min(self) -> float:
        """Change of the weight that a nominal pulse makes."""
        cell = self.cell
        assert cell.device.steps is not None
        assert self.max_weight is not None
        return self.max_weight * abs(cell.factors[cell.pulsed(0)[0]]) * cell.device.steps.size / cell.device.g_max

    def apply_leak(self, now: Tensor, tracked: TrackedWeight = UNTRACKED) -> bool:
        """Take a leak up to now into the conductance; whether there was one, and the weight was kept in step."""
        device = self.cell.device
        elapsed = float(now) - float(self.programmed_at) if device.drifts else 0.0
        leak = device.leak(elapsed) if elapsed > 0.0 else None
        if leak is None:
            return False
        call("leak", self.conductance, *leak, tracked)
        self.programmed_at.copy_(now)
        return True

    def pulse(
        self, x: Tensor, d: Tensor, lr: float, now: Tensor, seed: Tensor, offset: int = streams.UPDATE,
        tracked: TrackedWeight = UNTRACKED,
    ) -> None:  # fmt: skip
        """Send trains of pulses for ``weight -= lr d^T x``, sample after sample.

        Raises:
            ValueError: ``x`` or ``d`` is not finite; no device was touched.
        """
        call(
            "pulsed_update", *self._pulsed(tracked), x.float(), d.float(), self._rule(lr), float(now), self._law, seed,
            offset,
        )  # fmt: skip

    def send_counts(
        self,
        counts: Tensor,
        now: Tensor,
        seed: Tensor,
        offset: int = streams.UPDATE,
        tracked: TrackedWeight = UNTRACKED,
    ) -> None:
        """Send every cell pulses of its own number: int32 ``[out, in]``, above 0 to grow."""
        call("pulse_counts", *self._pulsed(tracked), counts, float(now), self._law, seed, offset)

    # --- some input rows alone -------------------------------------------------------------------------------

    def read_rows(self, rows: Tensor, now: Tensor, seed: Tensor, offset: int = streams.DEVICES) -> Tensor:
        """Weights ``[out, rows]`` of some input rows, given by their numbers, as one read sees them."""
        assert self.max_weight is not None
        device = self.cell.device
        if not device.reads_are_noisy and not device.drifts:
            return self.cell.weight(self.conductance.index_select(-1, rows)) * self.max_weight
        conductance, nu, pulsed_at = self._taken(rows, self.conductance, self.nu, self.pulsed_at)
        assert conductance is not None
        assert nu is not None
        since = now - (self.programmed_at if pulsed_at is None else pulsed_at)
        read = device.read(DeviceState(conductance, nu), since, seed, offset)
        return self.cell.weight(read) * self.max_weight

    def send_counts_to_rows(
        self, counts: Tensor, rows: Tensor, now: Tensor, seed: Tensor, offset: int = streams.UPDATE
    ) -> None:
        """Send every cell of some input rows pulses of its own number: int32 ``[out, rows]``, above 0 to grow."""
        *taken, parameters = self._taken(rows, self.conductance, self.history, self.pulsed_at, self.step_parameters)
        state = PulsedState(*taken)  # type: ignore[arg-type]
        call("pulse_counts", state, UNTRACKED, parameters, counts, float(now), self._law, seed, offset)
        self._put(rows, *state)

    def pulse_rows(
        self, d: Tensor, lr: float, rows: Tensor, now: Tensor, seed: Tensor, offset: int = streams.UPDATE
    ) -> None:
        """Drive one input line after another fully, and the outputs with ``d`` ``[rows, out]``: ``w -= lr d^T``."""
        *taken, parameters = self._taken(rows, self.conductance, self.history, self.pulsed_at, self.step_parameters)
        state = PulsedState(*taken)  # type: ignore[arg-type]
        call(
            "pulsed_update", state, UNTRACKED, parameters, torch.eye(len(rows), device=d.device), d, self._rule(lr),
            float(now), self._law, seed, offset,
        )  # fmt: skip
        self._put(rows, *state)

    def _taken(self, rows: Tensor, *buffers: Tensor | None) -> list[Tensor | None]:
        """Copies of what belongs to some input rows: a transfer then costs what they cost, not what the array does."""
        return [None if b is None else b.index_select(-1, rows) for b in buffers]

    def _put(self, rows: Tensor, *taken: Tensor | None) -> None:
        for buffer, part in zip((self.conductance, self.history, self.pulsed_at), taken, strict=True):
            if buffer is not None and part is not None:
                buffer.index_copy_(-1, rows, part)

    # --- what the ops take ------------------------------------------------------------------------------------

    def _pulsed(self, tracked: TrackedWeight) -> tuple[Any, ...]:
        """State and parameters, as the ops take them."""
        assert self.step_parameters is not None
        return PulsedState(self.conductance, self.history, self.pulsed_at), tracked, self.step_parameters

    def _rule(self, lr: float) -> TrainRule:
        """How gradients become trains of pulses, as the ops take it."""
        pulses = self.pulses
        assert pulses is not None
        return TrainRule(lr, self.dw_min, pulses.length, pulses.bl_management, pulses.update_management, pulses.code)

    @property
    def _law(self) -> StepLaw:
        """The devices that are pulsed, and their step law, as the ops take them."""
        steps = self.cell.device.steps
        assert steps is not None
        coefficients = _coefficients(self.cell.device, self.conductance.device)
        return StepLaw(self.pulsed_planes, steps.family, coefficients)

    @property
    def pulsed_planes(self) -> tuple[int, int]:
        """The devices that the next update pulses where the weight must grow, and where it must shrink."""
        assert self.updates is not None
        return self.cell.pulsed(int(self.updates))

    def reset_and_rewrite(self, where: Tensor, now: Tensor, seed: Tensor) -> None:
        """RESET cells ``[out, in]`` or devices ``[devices, out, in]``, and write what their cells stand for."""
        assert self.step_parameters is not None
        cells = (where if where.dim() == 2 else where.any(0)).flatten().nonzero().squeeze(1)  # few of all

        def taken(buffer: Tensor) -> Tensor:
            return buffer.flatten(-2)[..., cells]

        held, chosen = taken(self.conductance), None if where.dim() == 2 else taken(where)
        state = self.cell.device.program(self.cell.rewrite_targets(held), seed, streams.PROGRAMMING)
        written = state.conductance.clamp(*taken(self.step_parameters[2:]))
        for buffer, value in (
            (self.conductance, written), (self.nu, state.nu), (self.history, torch.ones_like(held)),
            (self.pulsed_at, now.expand_as(held)),
        ):  # fmt: skip
            if buffer is not None:
                value = value if chosen is None else torch.where(chosen, value, taken(buffer))
                buffer.flatten(-2)[..., cells] = value

    def reset(self, where: Tensor, now: Tensor) -> None:
        """RESET devices ``[devices, out, in]``."""
        assert self.step_parameters is not None
        self.conductance.copy_(torch.where(where, self.step_parameters[2], self.conductance))
        if self.pulsed_at is not None:
            self.pulsed_at.masked_fill_(where, float(now))
        if self.history is not None:
            self.history.masked_fill_(where, 1.0)

    def count_and_refresh(self, now: Tensor, seed: Tensor) -> bool:
        """Count an update, and look for saturated cells when it is time to; whether it was."""
        assert self.updates is not None
        updates, every = self.updates.add_(1), self.cell.refresh_every
        if not every or int(updates) % every:
            return False
        where = self.cell.saturated(self.conductance)
        if not bool(where.any()):
            return False
        self.reset_and_rewrite(where, now, seed)
        return True


@functools.lru_cache(maxsize=256)
def _coefficients(device: Device, place: torch.device) -> Tensor:
    assert device.steps is not None
    return torch.tensor(device.steps.coefficients(device.g_max), dtype=torch.float32, device=place)
