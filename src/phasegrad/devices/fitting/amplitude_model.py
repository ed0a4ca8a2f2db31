"""The likelihood of conductances after single pulses, with each device's offset and SET conductance integrated out.

Offset and logarithm of the SET conductance are normal variables of the device. Many pulses determine them, so the
integral is Laplace's approximation around their most likely values, which are found for each parameter vector by the
linearised steps of Lindstrom and Bates. Noise of the current is averaged by quadrature, so that the mean and variance
that it causes are right at the bends of the curve.

References:
    Lindstrom, M. J. & Bates, D. M. Nonlinear mixed effects models for repeated measures data. Biometrics 46, 673
    (1990). https://doi.org/10.2307/2532087

    Wolfinger, R. Laplace's approximation for nonlinear mixed models. Biometrika 80, 791 (1993).
    https://doi.org/10.1093/biomet/80.4.791
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from phasegrad.devices.fitting.amplitude_forms import CurveForm
from phasegrad.devices.fitting.likelihood import Maximum, maximise

_ROUNDS, _INNER = 12, 30
_ENOUGH = 1e-3
"""Change of the log-likelihood at which rounds end."""
_RESOLUTION = 1e-4
"""Least error of a read, relative to the largest conductance."""
_VANISHED = math.log(100.0)
"""Factor on a start below which a spread vanished, as a logarithm."""
_MOST = 2000
"""Reads to which the start is fitted."""
_START_OF_NOISE = (0.01, 0.02)
"""Starts of the coefficients of read noise: of the largest conductance, and relative."""
_SPREADS = ("offset_sd", "set_sd", "cycle_sd")


def _quadrature(nodes: int) -> tuple[list[float], Tensor]:
    """Nodes and weights of means over a standard normal."""
    at, weights = np.polynomial.hermite_e.hermegauss(nodes)
    return at.tolist(), torch.from_numpy(weights / weights.sum())


_AT, _WEIGHTS = _quadrature(3)
"""Quadrature over noise of the current: exact for the variance of a curve that is quadratic over that noise."""


class AmplitudeData(NamedTuple):
    """Conductances after one pulse each ``[devices, pulses]``, padded with NaN."""

    current: Tensor
    """Amplitudes in ``unit``."""
    reads: Tensor
    """Conductances [µS]."""
    read_sd: tuple[float, ...]
    """Standard deviation of a read as coefficients of powers of the conductance [µS]; empty if it is estimated."""

    unit: float
    """Unit of currents [A], such that amplitudes are of the order of 1."""

    @property
    def pulses(self) -> int:
        """Number of pulses."""
        return int((~self.reads.isnan()).sum())

    @property
    def floor(self) -> float:
        """Least standard deviation of a read [µS]."""
        return _RESOLUTION * float(self.reads.nan_to_num(0.0).max())


@dataclass(frozen=True)
class AmplitudeModel:
    """A curve, the spread of devices and of pulses, and ``noise`` coefficients of read noise that are estimated."""

    form: CurveForm
    data: AmplitudeData
    noise: int
    own: Tensor
    """Where steps start: offset and logarithm of the relative SET conductance of each device ``[devices, 2]``."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in order."""
        noise = tuple(f"read_sd.{k}" for k in range(self.noise))
        return ("set_conductance", "reset_conductance", *self.form.parameters, *_SPREADS, *noise)

    @property
    def units(self) -> tuple[str, ...]:
        """Units of the parameters."""
        amperes = ("onset", "complete", "centre", "width", "offset_sd", "cycle_sd")
        siemens = ("set_conductance", "reset_conductance", "read_sd.0")
        return tuple("A" if n in amperes else "S" if n in siemens else "" for n in self.names)

    @property
    def size(self) -> int:
        """Numbers per parameter vector."""
        return self.data.reads.numel() * len(_AT)

    def natural(self, theta: Tensor) -> Tensor:
        """Parameters ``[..., p]`` in the units of the device."""
        linear = ("reset_conductance", "onset", "complete", "centre")
        is_log = torch.tensor([name not in linear for name in self.names])
        factors = theta.new_tensor([{"A": self.data.unit, "S": 1e-6}.get(unit, 1.0) for unit in self.units])
        return torch.where(is_log, theta.exp(), theta) * factors

    def values(self, theta: Tensor) -> dict[str, float]:
        """Parameters by name, in the units of the device."""
        return dict(zip(self.names, self.natural(theta).tolist(), strict=True))

    def predict(self, theta: Tensor, own: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of reads ``[batch, devices, pulses]``.

        Args:
            theta: parameters ``[batch, p]``.
            own: offsets of devices, and logarithms of their relative SET conductances ``[batch or 1, devices, 2]``.
            current: amplitudes ``[devices or 1, pulses]``.
        """
        p, spreads = self._split(theta)
        falls = torch.stack([self.form.fall(p[2:], current - own[..., :1] - spreads[2] * node) for node in _AT])
        first = torch.tensordot(_WEIGHTS, falls, 1)
        window = torch.exp(p[0] + own[..., 1:]) - p[1]
        mean = p[1] + window * first
        variance = torch.tensordot(_WEIGHTS, (falls - first).square(), 1) * window.square()
        return mean, variance + self._read_variance(mean, spreads[3:])

    def spreads(self, theta: Tensor) -> Tensor:
        """Standard deviations of offset and strength ``[2]``."""
        return self._split(theta[None])[1][:2, 0, 0, 0]

    def _split(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters, and those that are spreads, ``[p, batch, 1, 1]``."""
        p = theta.t()[..., None, None]
        return p, p[2 + len(self.form.parameters) :].exp()

    def _read_variance(self, mean: Tensor, noise: Tensor) -> Tensor:
        sd = torch.zeros_like(mean)
        for coefficient in reversed((*noise,) if self.noise else self.data.read_sd):
            sd = sd * mean + coefficient
        return sd.square() + self.data.floor**2

    def likelihood(self, theta: Tensor) -> Tensor:
        """Log-likelihood per device ``[batch, devices]``; a read of 0 counts with the probability of being negative."""
        own, penalty = self._most_likely(theta, self._most_likely(theta, self.own)[0])
        mean, variance = self.predict(theta, own, self.data.current.nan_to_num(1.0))
        apart = (self.data.reads.nan_to_num(0.0) - mean).square() / variance
        densities = (apart + variance.log() + math.log(2.0 * math.pi)) * (self.data.reads > 0.0)
        device, pulse = torch.nonzero(self.data.reads <= 0.0).t()
        negative = torch.special.log_ndtr(-mean[:, device, pulse] / variance[:, device, pulse].sqrt())
        return (-0.5 * (densities.sum(2) + penalty)).index_add_(1, device, negative)

    def _most_likely(self, theta: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """A step of Gauss and Newton towards the most likely offsets and strengths of devices.

        Returns:
            Offsets and strengths ``[batch, devices, 2]``, and what the integral over them subtracts: their squares in
            standard deviations plus the logarithm of the determinant of their precision ``[batch, devices]``.
        """
        p, spreads = self._split(theta)
        current, offset, strength = self.data.current.nan_to_num(1.0), own[..., :1], own[..., 1:]
        fall, slope = self.form.with_slope(p[2:], current - offset)
        largest, reset = torch.exp(p[0] + strength), p[1]
        mean, by_offset, by_strength = reset + (largest - reset) * fall, (reset - largest) * slope, largest * fall
        variance = (spreads[2] * by_offset).square() + self._read_variance(mean, spreads[3:])
        weight = (self.data.reads > 0.0) * variance.rsqrt()
        apart = self.data.reads.nan_to_num(0.0) - mean + by_offset * offset + by_strength * strength
        columns = torch.stack((by_offset * spreads[0], by_strength * spreads[1], apart), 2) * weight.unsqueeze(2)
        products = columns @ columns.transpose(2, 3)
        xx, xy, yy, xr, yr = (products[:, :, i, j].unsqueeze(2) for i, j in ((0, 0), (0, 1), (1, 1), (0, 2), (1, 2)))
        determinant = (1.0 + xx) * (1.0 + yy) - xy.square()
        normal = torch.cat(((1.0 + yy) * xr - xy * yr, (1.0 + xx) * yr - xy * xr), 2) / determinant
        found = torch.cat((spreads[0] * normal[..., :1], spreads[1] * normal[..., 1:]), 2)
        return found, normal.square().sum(2) + determinant.squeeze(2).log()

    def around(self, theta: Tensor) -> AmplitudeModel:
        """The same law, which starts from the most likely offsets and strengths at ``theta`` ``[p]``."""
        own = self.own
        for _ in range(_INNER):
            step = (self._most_likely(theta[None], own)[0][0] - own).clamp(-0.5, 0.5)
            own = own + step
            if float(step.abs().max()) < 1e-6:
                break
        return dataclasses.replace(self, own=own)


class Fitted(NamedTuple):
    """A law and where its likelihood is largest."""

    model: AmplitudeModel
    maximum: Maximum


def fit_curve(form: CurveForm, data: AmplitudeData, noise: int) -> Fitted:
    """Maximum likelihood; spreads that vanished are tried again, because the likelihood is flat where they are 0."""
    start = _start(form, data, noise)
    model = AmplitudeModel(form, data, noise, start.new_zeros(len(data.reads), 2))
    found = _rounds(model, start)
    vanished = (found.maximum.theta < start - _VANISHED) & (torch.arange(len(start)) >= 2 + len(form.parameters))
    if not bool(vanished.any()):
        return found
    again = _rounds(model, torch.where(vanished, start - 0.5 * _VANISHED, found.maximum.theta))
    return max(found, again, key=lambda one: one.maximum.value)


def _rounds(model: AmplitudeModel, theta: Tensor) -> Fitted:
    """Searches, each of which starts from the offsets and strengths of the one before."""
    model = model.around(theta)
    maximum = maximise(model.likelihood, theta, model.size)
    for _ in range(_ROUNDS):
        model = model.around(maximum.theta)
        apart = abs(float(model.likelihood(maximum.theta[None]).sum()) - maximum.value)
        if maximum.converged and apart < _ENOUGH:
            return Fitted(model, maximum)
        maximum = maximise(model.likelihood, maximum.theta, model.size)
    return Fitted(model, maximum._replace(converged=False))


def _start(form: CurveForm, data: AmplitudeData, noise: int) -> Tensor:
    """Parameters by least squares of all devices together, with rough spreads."""
    seen = ~data.reads.isnan()
    some = slice(None, None, max(1, data.pulses // _MOST))
    current, y = data.current[seen][some], data.reads[seen][some]
    tried = form.starts(float(current.min()), float(current.max()))
    fall, slope = form.with_slope(tried.t().unsqueeze(2), current)
    window, apart = _regressed(fall, y)
    best = int(apart.square().mean(1).argmin())
    reset = float(y.mean() - window[best] * fall[best].mean())
    largest = max(reset + float(window[best]), 0.5 * float(y.max()))
    reset = min(max(reset, 0.0), 0.2 * largest)
    steep = float((window[best] * slope[best]).square().mean().sqrt())
    offset = max(float(apart[best].square().mean().sqrt()) / max(steep, 1e-9), 1e-2)
    sizes = (offset, 0.05, 0.3 * offset, _START_OF_NOISE[0] * largest, _START_OF_NOISE[1])
    logs = y.new_tensor([math.log(size) for size in sizes[: len(_SPREADS) + noise]])
    return torch.cat((y.new_tensor([math.log(largest), reset]), tried[best], logs))


def _regressed(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Slope, not below 0, of a line through the points of each row ``[rows, n]``, and the residuals."""
    x, y = x - x.mean(1, keepdim=True), y - y.mean()
    slope = ((x * y).mean(1) / x.square().mean(1).clamp(min=1e-9)).clamp(min=0.0)
    return slope, y - slope.unsqueeze(1) * x
