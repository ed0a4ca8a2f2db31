"""The error of programmed weights, from the moments of their devices and without samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from phasegrad import argument_checks as checks
from phasegrad.cells import Cell
from phasegrad.devices.moments import mean_magnitude

MONTH = 30.0 * 86_400.0
TIMES = (0.0, 3600.0, 86_400.0, 7.0 * 86_400.0, MONTH)
"""Default times [s]: from programming to a month."""
_BINS = 128
"""Bins of a weight density per sign."""
_TARGETS = 1025
"""Targets at which the moments of a device are tabulated."""


class Density(NamedTuple):
    """How many weights have which value."""

    weight: Tensor
    """Mean weight in each bin that is in use, float64, relative to the largest possible one."""
    share: Tensor
    """Share of the weights in that bin."""


class WeightMoments(NamedTuple):
    """Mean and variance of weights at each time, ``[times, ...]``."""

    mean: Tensor
    variance: Tensor


class DeviceTable(NamedTuple):
    """Moments of a device's reads, over its window, at equally spaced targets ``[times, targets]``."""

    mean: Tensor
    variance: Tensor

    def __call__(self, fraction: Tensor) -> WeightMoments:
        """Interpolate at targets that are fractions of the window, of any shape; a gradient passes."""
        last = self.mean.shape[1] - 1
        low = (fraction.detach() * last).floor().clamp(0, last - 1).long()
        along = fraction * last - low
        return WeightMoments(*(torch.lerp(t[:, low], t[:, low + 1], along.expand(len(t), *low.shape)) for t in self))


def tabulate(caller: str, cell: Cell, times: Sequence[float]) -> DeviceTable:
    """Tabulate the moments of the devices of a cell.

    Raises:
        ValueError: they are unknown, or the cell has a reference column.
    """
    device = cell.device
    if cell.has_reference:
        raise ValueError(
            f"{caller}: the cell is {type(cell).__name__}, whose reference column has errors that all weights of a "
            "tile share; only cells without one have an error per weight"
        )
    targets = device.in_window(torch.linspace(0.0, 1.0, _TARGETS, dtype=torch.float64))
    moments = device.conductance_moments(targets, times)
    if moments is None:
        raise ValueError(
            f"{caller}: the mean and variance of a {type(device).__name__} are unknown; use a PCM without telegraph "
            "noise, or a device that defines conductance_moments"
        )
    return DeviceTable(moments.mean / device.window, moments.variance / device.window**2)


def check_times(caller: str, times: Sequence[float]) -> tuple[float, ...]:
    """Times [s] as floats; raise unless there are some, finite and not negative."""
    found = tuple(checks.number(caller, "times", t, 0.0, unit="s") for t in times)
    if not found:
        raise ValueError(f"{caller}: times = {times}; give at least one time since programming [s]")
    return found


def density_of(caller: str, weights: Tensor, *, signed: bool) -> Density:
    """The density of weights in [-1, 1], or of their magnitudes.

    Raises:
        TypeError: they are not a tensor.
        ValueError: there is none, or one is outside of [-1, 1] or not finite.
    """
    values = checks.instance(caller, "density", weights, Tensor).detach().double().flatten().cpu()
    if not len(values) or not bool(values.isfinite().all()) or float(values.abs().max()) > 1.0 + 1e-6:
        raise ValueError(
            f"{caller}: density = {checks.shown(weights)}; it must hold one or more weights in [-1, 1], relative to "
            "the largest weight of a cell: divide weights by the scale of their column"
        )
    values = (values if signed else values.abs()).clamp(-1.0, 1.0)
    which = ((values + 1.0) * _BINS).long().clamp_(max=2 * _BINS - 1)
    count = torch.bincount(which, minlength=2 * _BINS).double()
    total = torch.bincount(which, values, minlength=2 * _BINS)
    used = count > 0
    return Density(total[used] / count[used], count[used] / len(values))


def square_errors(moments: WeightMoments, density: Density) -> Tensor:
    """Mean square errors ``[times - 1, ...]`` of weights ``[times, ..., bins]`` after global drift compensation.

    The first time is that of the calibration read: later weights are multiplied by the mean magnitude of a read then
    over that at their own time.
    """
    mean, variance = moments
    magnitude = (mean_magnitude(mean, variance) * density.share).sum(-1, keepdim=True)
    gain = magnitude[:1] / magnitude[1:].clamp(min=1e-30)
    error = gain.square() * variance[1:] + (gain * mean[1:] - density.weight).square()
    return (error * density.share).sum(-1)


def weight_error(cell: Cell, density: Tensor, *, times: Sequence[float] = TIMES) -> tuple[float, ...]:
    """Root mean square error of weights at each time, after global drift compensation.

    Programming error, drift and its spread, read noise and clipping are those of the device's statistics; nothing is
    sampled. Periphery and wires are ideal.

    Args:
        cell: unit cell.
        density: weights, of any shape, relative to the largest weight of a cell.
        times: times since programming [s].

    Returns:
        The error at each time, relative to the largest weight of a cell.

    Raises:
        ValueError: a weight is outside of [-1, 1], a time is negative, or the moments of the device are unknown.

    Examples:
        >>> import phasegrad as pg
        >>> cell = pg.cells.SignificancePairs(device=pg.devices.joshi_2020(), significances=(2.0, 1.0))
        >>> [round(e, 4) for e in weight_error(cell, torch.linspace(-1.0, 1.0, 101), times=(0.0, 2.6e6))]
        [0.0346, 0.0571]
    """
    times = check_times("weight_error", times)
    table = tabulate("weight_error", checks.instance("weight_error", "cell", cell, Cell), (0.0, *times))
    held = density_of("weight_error", density, signed=True)
    fraction = (cell.targets(held.weight) - cell.device.lowest) / cell.device.window
    mean, variance = table(fraction.clamp(0.0, 1.0))
    factors = torch.tensor(cell.factors, dtype=torch.float64)
    # The window starts at the lowest conductance, which adds to the mean but not to a difference of devices.
    weight = torch.einsum("d,tdj->tj", factors, mean) + cell.offset
    errors = square_errors(WeightMoments(weight, torch.einsum("d,tdj->tj", factors.square(), variance)), held)
    return tuple(errors.sqrt().tolist())
