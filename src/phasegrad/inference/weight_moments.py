"""Mean and variance of programmed weights over chips, and the gain that compensation is expected to set."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from phasegrad.cells import Cell
from phasegrad.crossbar.mapping import expand_scale, nonzero
from phasegrad.crossbar.tile_weights import TileWeights
from phasegrad.devices import Device
from phasegrad.inference.gaussian_moments import MeanVariance, absolute_mean, clipped
from phasegrad.nn import AnalogLayer
from phasegrad.stores.compensation import drift_gain
from phasegrad.stores.digital import programming_target

_TARGETS, _SAMPLES = 65, 8192


class DeviceMoments(NamedTuple):
    """Mean and variance of one read of a device at one age, against its target."""

    targets: Tensor
    """Target conductances [S], increasing, denser near 0, where drift and noise vary most."""
    mean: Tensor
    """Mean of reads [S]."""
    variance: Tensor
    """Variance of reads [S^2]: programming, drift exponents and read noise."""

    @classmethod
    @torch.no_grad()
    def sampled(cls, device: Device, age: float, temperature: float | None) -> DeviceMoments:
        """Moments from 8192 devices at each of 65 targets, for which the device need only be able to be read.

        The standard error of a standard deviation is 0.8 %, and that of a mean a hundredth of the standard deviation.
        """
        targets = torch.linspace(0.0, 1.0, _TARGETS, dtype=torch.float64) ** 3 * device.g_max
        seed = torch.zeros(1, dtype=torch.int64)
        state = device.program(targets.float().expand(_SAMPLES, _TARGETS).contiguous(), seed, 0)
        if device.heat() is not None:
            state = state._replace(heat=device.heat())
        if temperature is not None:
            device.check_temperature(temperature)
            assert state.heat is not None
            state.heat[0] = temperature
        if device.stateful_fields:
            device.advance(state, 0.0, age, seed + 1, 64)
        read = device.read(state, torch.tensor(age, dtype=torch.float64), seed + 2, 0).double()
        return cls(targets, read.mean(0), read.var(0))

    def at(self, targets: Tensor) -> MeanVariance:
        """Moments of devices with these targets [S], interpolated."""
        where = targets.double()
        right = torch.searchsorted(self.targets, where).clamp(1, _TARGETS - 1)
        left = right - 1
        part = ((where - self.targets[left]) / (self.targets[right] - self.targets[left])).clamp(0.0, 1.0)
        mean, variance = (torch.lerp(m[left], m[right], part) for m in (self.mean, self.variance))
        return MeanVariance(mean, variance)


class LayerMoments(NamedTuple):
    """The weights of a layer at one age, over chips and reads."""

    weight: MeanVariance
    """``[out, in]``, before the gain."""
    scale: Tensor
    """``[row tiles, out]``."""
    gain: Tensor
    """``[row tiles, out]``: the gain of drift compensation, 1 without."""


@torch.no_grad()
def layer_moments(
    layer: AnalogLayer, devices: dict[float, DeviceMoments], age: float, compensation: str | None
) -> LayerMoments:
    """The moments of the weights of a layer with a digital weight.

    Args:
        layer: the layer.
        devices: moments of its devices by age: at 0 and at ``age``.
        age: time since programming [s].
        compensation: which columns share a gain; ``None`` for no compensation.
    """
    target = programming_target(layer)
    now = _weights(layer, target, devices[age])
    gain = torch.ones_like(target.scale)
    if compensation is not None:
        baseline = _calibration(layer, target, _weights(layer, target, devices[0.0]))
        gain = drift_gain(baseline, _calibration(layer, target, now), layer.columns, compensation)
    dtype = target.weight.dtype
    return LayerMoments(MeanVariance(now.mean.to(dtype), now.variance.to(dtype)), target.scale, gain.to(dtype))


def _weights(layer: AnalogLayer, target: TileWeights, devices: DeviceMoments) -> MeanVariance:
    cell: Cell = layer.hardware.cell
    scale = expand_scale(target.scale, target.weight.shape[1], layer.hardware).double()
    of_devices = devices.at(cell.targets((target.weight / nonzero(scale)).double()))
    factors = torch.tensor(cell.factors, dtype=torch.float64).view(-1, 1, 1) / cell.device.window
    variance = (factors.square() * of_devices.variance).sum(0) * scale.square()
    return MeanVariance(cell.weight(of_devices.mean) * scale, variance)


def _calibration(layer: AnalogLayer, target: TileWeights, weights: MeanVariance) -> Tensor:
    """The expected calibration read ``[row tiles, out]``: absolute outputs when rows are driven one at a time."""
    hardware, count = layer.hardware, weights.mean.shape[1]
    scale = expand_scale(target.scale, count, hardware).double()
    full = layer.output_range.double().abs() * scale
    variance = weights.variance + output_variance(layer, scale)
    read = clipped(MeanVariance(weights.mean, variance), -full, full) if hardware.adc is not None else None
    sizes = absolute_mean(weights.mean, variance) if read is None else absolute_mean(*read)
    return torch.stack([part.sum(1) for part in sizes.split(hardware.rows, dim=1)])


def output_variance(layer: AnalogLayer, unit: Tensor) -> Tensor:
    """Variance of output noise and of the rounding of the ADC, for columns with a full product of ``unit``."""
    hardware = layer.hardware
    step = layer.output_range.abs().to(unit.dtype) / hardware.adc_settings[1] if hardware.adc is not None else 0.0
    return unit.square() * (hardware.output_noise**2 + step * step / 12.0)
