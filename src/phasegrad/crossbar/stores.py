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
    scale, clip = torch.ops.phasegrad.weight_scale(
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
    """

    conductance: Tensor
    nu: Tensor
    programmed_at: Tensor
    clock: Tensor
    scale: Tensor
    gain: Tensor
    baseline: Tensor

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
        """Time since programming [s]."""
        return self.clock - self.programmed_at

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
        self.scale.copy_(scale)
        self.gain.fill_(1.0)
        self.baseline.copy_(self.calibration_read(output_range, seed + (1 << 40)))

    def _weight(self, conductance: Tensor) -> Tensor:
        relative = self.hardware.cell.weight(conductance)
        return relative * spread_scale(self.scale, relative.shape[1], self.hardware)

    def mean_weight(self) -> Tensor:
        """The drifted weights ``[out, in]``, without read noise and without gain."""
        return self._weight(self.hardware.cell.device.drift(self.state, self.age))

    def logical_weight(self) -> Tensor:
        """The drifted weights ``[out, in]``, corrected by the gain."""
        weight = self.mean_weight()
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
