"""Where a weight lives: in digital memory, or on devices.

A layer asks its store for the matrix as the hardware reads it now. Digital master weights are a torch parameter, read
with the noise that the hardware would add; programmed weights are device state, read from the devices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from phasegrad.crossbar import streams
from phasegrad.crossbar.hardware import Hardware
from phasegrad.crossbar.mapping import row_tiles, spread_scale, sum_over_tiles
from phasegrad.crossbar.perturbation import Perturbation
from phasegrad.crossbar.product import Draw, Matrix, convert_outputs
from phasegrad.devices import DeviceState
from phasegrad.ops.direct import call


def master_matrix(
    weight: Tensor,
    hardware: Hardware,
    perturbation: Perturbation | None,
    level: Tensor | None,
    columns: int | None = None,
) -> Matrix:
    """Digital weights as the hardware reads them.

    Args:
        weight: ``[out, in]``.
        hardware: tiles and scales.
        perturbation: clipping and noise, or ``None``.
        level: factor of the noise in training; ``None`` in evaluation, which sees clipping alone.
        columns: outputs that share a tile; ``None`` for the hardware's columns.

    Returns:
        The matrix, its scales from the clipped weights. Gradients of a read pass straight through noise and dropped
        weights, and through clipping unless a step down would push a clipped weight further out.
    """
    p = perturbation or Perturbation()
    if not isinstance(hardware.scale, str):
        tiles = row_tiles(weight.shape[1], hardware)
        return Matrix(weight, weight.new_full((tiles, len(weight)), hardware.scale), None, hardware.read_noise)
    scale, clip = call(
        "weight_scale",
        weight.detach(),
        hardware.rows,
        columns or hardware.columns,
        hardware.scale == "column",
        p.clip_sigma,
        p.clip_per == "channel",
    )
    draw = None
    if level is not None and p.perturbs:
        draw = Draw(clip, level, p.noise, p.drop_connect)
    elif p.clip_sigma > 0:
        draw = Draw(clip, weight.new_zeros(()), (0.0, 0.0, 0.0), 0.0)
    return Matrix(weight, scale, None, hardware.read_noise, draw)


class Devices(nn.Module):
    """Programmed devices of one weight: the truth of which the layer's ``weight`` is a copy.

    Buffers, float32 and float64, in the state dict; ``.half()`` and ``.to(dtype)`` never round them.

    Attributes:
        conductance: ``[devices, out, in]`` right after programming [S].
        nu: drift exponents, the same shape.
        programmed_at: time of programming [s], float64, one for all.
        clock: the present [s since the chip was programmed first], float64.
        scale: ``[row tiles, out]``, weight of a fully programmed cell.
        gain: ``[row tiles, out]``, digital drift compensation; 1 until compensated.
        baseline: ``[row tiles, out]``, sums of the calibration read at programming.
        step_parameters: ``[4, devices, out, in]``, what each device is for life: step up, step down, lowest, highest
            conductance [S]; ``None`` where no pulse is sent.
        history: ``[devices, out, in]``, what devices whose steps depend on their past remember, or ``None``.
        pulsed_at: ``[devices, out, in]``, time of the last pulse of devices that drift [s], float64, or ``None``.
        updates: how many updates the devices have had, or ``None``.
    """

    conductance: Tensor
    nu: Tensor
    programmed_at: Tensor
    clock: Tensor
    scale: Tensor
    gain: Tensor
    baseline: Tensor
    step_parameters: Tensor | None
    history: Tensor | None
    pulsed_at: Tensor | None
    updates: Tensor | None

    def __init__(
        self, hardware: Hardware, out_features: int, in_features: int, columns: int, device: Any = None
    ) -> None:
        super().__init__()
        self.hardware = hardware
        self.columns = columns
        cells = (len(hardware.cell.factors), out_features, in_features)
        tile_columns = (row_tiles(in_features, hardware), out_features)
        for name in ("conductance", "nu"):
            self.register_buffer(name, torch.zeros(cells, dtype=torch.float32, device=device))
        for name in ("programmed_at", "clock"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64, device=device))
        for name in ("scale", "gain", "baseline"):
            self.register_buffer(name, torch.ones(tile_columns, dtype=torch.float32, device=device))
        steps = hardware.cell.device.steps if hardware.update is not None else None
        blank = torch.zeros(cells, dtype=torch.float32, device=device)
        self.register_buffer("step_parameters", blank.expand(4, *cells).clone() if steps else None)
        self.register_buffer("history", blank if steps and steps.remembers else None)
        drifts = steps is not None and hardware.cell.device.drifts
        self.register_buffer("pulsed_at", blank.double() if drifts else None)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64, device=device) if steps else None)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Devices:
        def move(buffer: Tensor) -> Tensor:
            target = fn(buffer)
            return target if target.dtype == buffer.dtype else buffer.to(target.device)

        return super()._apply(move, recurse)

    @property
    def state(self) -> DeviceState:
        """What the devices remember."""
        return DeviceState(self.conductance, self.nu)

    @property
    def age(self) -> Tensor:
        """Time since programming [s], or since each device's last pulse."""
        return self.clock - (self.programmed_at if self.pulsed_at is None else self.pulsed_at)

    @torch.no_grad()
    def program(self, weight: Tensor, scale: Tensor, output_range: Tensor, seed: Tensor) -> None:
        """Program every cell at the present time, and take the baseline of drift compensation.

        Args:
            weight: finite targets ``[out, in]``.
            scale: ``[row tiles, out]``.
            output_range: range of the ADC, for the baseline read.
            seed: seed of the draws.
        """
        divisor = torch.where(scale > 0, scale, torch.ones_like(scale)).float()  # a column of zeros has no scale
        relative = weight.float() / spread_scale(divisor, weight.shape[1], self.hardware)
        state = self.hardware.cell.program(relative, seed, streams.PROGRAMMING)
        self.conductance.copy_(state.conductance)
        self.nu.copy_(state.nu)
        self.programmed_at.copy_(self.clock)
        self._make_trainable(seed)
        self.scale.copy_(scale)
        self.gain.fill_(1.0)
        self.baseline.copy_(self.calibration_read(output_range, seed + (1 << 40)))

    def _make_trainable(self, seed: Tensor) -> None:
        """Draw what the devices are for life, if they have not been used yet, and forget their past."""
        cell, steps = self.hardware.cell, self.hardware.cell.device.steps
        if steps is None or self.step_parameters is None:
            return
        if not bool(self.step_parameters.any()):
            up, down = cell.pulsed
            shape = tuple(self.conductance.shape)
            self.step_parameters.copy_(steps.draw(shape, cell.device.g_max, up == down, seed, streams.LIFE))
        self.conductance.clamp_(*self.step_parameters[2:])
        if self.pulsed_at is not None:
            self.pulsed_at.copy_(self.clock)
        if self.history is not None:
            self.history.fill_(1.0)

    @property
    def granularity(self) -> float:
        """Change of the weight that a nominal pulse makes."""
        cell, scale = self.hardware.cell, self.hardware.scale
        assert cell.device.steps is not None
        assert not isinstance(scale, str)
        return scale * abs(cell.factors[cell.pulsed[0]]) * cell.device.steps.size / cell.device.g_max

    @torch.no_grad()
    def update(self, x: Tensor, d: Tensor, lr: float, seed: Tensor) -> None:
        """Send pulses for ``weight -= lr d^T x``, sample after sample.

        Args:
            x: inputs ``[samples, in]``.
            d: gradients of the outputs ``[samples, out]``.
            lr: learning rate.
            seed: seed of trains and steps.

        Raises:
            ValueError: ``x`` or ``d`` is not finite; no device was touched.
        """
        pulses = self.hardware.update
        assert pulses is not None
        torch.ops.phasegrad.pulsed_update(
            *self._trained, x.float(), d.float(), lr, self.granularity, pulses.length, pulses.adaptive, pulses.managed,
            pulses.code, *self._law, seed, streams.UPDATE,
        )  # fmt: skip
        self._count_update(seed)

    @torch.no_grad()
    def send(self, counts: Tensor, seed: Tensor) -> None:
        """Send every weight pulses of its own number: int32 ``[out, in]``, above 0 to grow."""
        torch.ops.phasegrad.pulse_counts(*self._trained, counts, *self._law, seed, streams.UPDATE)
        self._count_update(seed)

    @property
    def _trained(self) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
        """State and parameters, as the ops take them."""
        assert self.step_parameters is not None
        return self.conductance, self.history, self.pulsed_at, self.step_parameters

    @property
    def _law(self) -> tuple[float, tuple[int, int], int, Tensor]:
        """The present time, the devices that are pulsed, and their step law, as the ops take them."""
        cell = self.hardware.cell
        assert cell.device.steps is not None
        coefficients = torch.tensor(cell.device.steps.coefficients(cell.device.g_max), dtype=torch.float32)
        return float(self.clock), cell.pulsed, cell.device.steps.family, coefficients.to(self.conductance.device)

    def _count_update(self, seed: Tensor) -> None:
        assert self.updates is not None
        self.updates += 1
        every = self.hardware.cell.refresh_every
        if every and int(self.updates) % every == 0:
            self._refresh(seed)

    def _refresh(self, seed: Tensor) -> None:
        """RESET saturated cells, and write their weights back."""
        cell, parameters = self.hardware.cell, self.step_parameters
        assert parameters is not None
        where = cell.saturated(self.conductance)
        state = cell.program(cell.weight(self.conductance), seed, streams.PROGRAMMING)
        written = state.conductance.clamp(*parameters[2:])
        self.conductance.copy_(torch.where(where, written, self.conductance))
        self.nu.copy_(torch.where(where, state.nu, self.nu))
        if self.pulsed_at is not None:
            self.pulsed_at.copy_(torch.where(where, self.clock, self.pulsed_at))
        if self.history is not None:
            self.history.masked_fill_(where, 1.0)

    def _weight(self, conductance: Tensor) -> Tensor:
        relative = self.hardware.cell.weight(conductance)
        if not isinstance(self.hardware.scale, str):
            return relative.mul_(self.hardware.scale)
        return relative * spread_scale(self.scale, relative.shape[1], self.hardware)

    def mean_weight(self) -> Tensor:
        """The drifted weights ``[out, in]``, without read noise and without gain."""
        device = self.hardware.cell.device
        return self._weight(device.drift(self.state, self.age) if device.drifts else self.conductance)

    def logical_weight(self) -> Tensor:
        """The drifted weights ``[out, in]``, corrected by the gain."""
        weight = self.mean_weight()
        if bool((self.gain == 1.0).all()):
            return weight
        return weight * spread_scale(self.gain, weight.shape[1], self.hardware)

    def read(self, seed: Tensor) -> Tensor:
        """The weights ``[out, in]`` as one read sees them."""
        return self._weight(self.hardware.cell.device.read(self.state, self.age, seed, streams.DEVICES))

    def matrix(self, seed: Tensor, dtype: torch.dtype) -> Matrix:
        """What the hardware computes with at this moment."""
        noise = 0.0 if self.hardware.cell.device.reads_are_noisy else self.hardware.read_noise
        return Matrix(self.read(seed).to(dtype), self.scale, self.gain, noise)

    @torch.no_grad()
    def calibration_read(self, output_range: Tensor, seed: Tensor) -> Tensor:
        """Sum of the sizes of what each column gives when its rows are driven fully, one at a time.

        Read through devices, output noise and ADC like any product.

        Returns:
            ``[row tiles, out]``, in units of the weights.
        """
        matrix = self.matrix(seed, torch.float32)._replace(gain=None)
        parts = [part.t().contiguous() for part in matrix.weight.split(self.hardware.rows, dim=1)]
        one = torch.ones(1, dtype=torch.float32, device=matrix.weight.device)
        sums = []
        for t, part in enumerate(parts):
            tile = matrix._replace(scale=matrix.scale[t : t + 1])
            spread = [part.abs()] if matrix.read_noise > 0 else []
            sizes = convert_outputs([part], spread, tile, one, output_range.float(), self.hardware, seed + t)
            sums.append(sizes.abs().sum(0))
        return torch.stack(sums)

    @torch.no_grad()
    def compensate(self, output_range: Tensor, seed: Tensor, per: str) -> None:
        """Set the gain to the baseline over what a calibration read finds now, per column, tile or layer."""
        before = sum_over_tiles(self.baseline, self.columns, per)
        # A read at another time has other noise, under the same seed too.
        present = self.calibration_read(output_range, seed + self.clock.view(torch.int64))
        now = sum_over_tiles(present, self.columns, per)
        usable = (before > 0) & (now > 0)
        self.gain.copy_(torch.where(usable, before / now, torch.ones_like(now)))
