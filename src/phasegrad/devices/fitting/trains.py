"""Pulse trains, and the likelihood of a step law given them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from phasegrad.devices.fitting.filtering import Trains, at_bounds, exact_steps, filtered, log_normal
from phasegrad.devices.fitting.measurements import Measurements, padded, rounded_up
from phasegrad.devices.fitting.step_forms import Sample, StepForm

_NODES = 9
_LEAST = 0.1
"""Least step of a device, relative to the nominal one."""
_LEAST_WEIGHT = 1e-9
"""Least precision of the step of a device, relative to the nominal one, that counts."""
_FLOOR = 3e-3
"""Least standard deviation of a step, relative to the root mean square of all steps: the resolution of a read."""


class Variation(NamedTuple):
    """Quadrature over the step of a device relative to the nominal one, ``[nodes, devices]``."""

    at: Tensor
    log_weight: Tensor
    d2d: float
    """Start of the standard deviation."""


@dataclass(frozen=True)
class PulseData:
    """Measured trains."""

    trains: Trains
    up: Tensor
    """Whether each pulse raises the conductance, ``[devices, pulses + 1]``."""
    sample: Sample
    after: Tensor
    """Conductance after each step of the sample [µS]."""
    device: Tensor
    """Device of each step of the sample."""
    two_sided: bool
    g_max: float
    """Upper end of the window [µS]."""
    bounded: bool
    """Whether it is given, or seen as a bound."""
    low: float
    """Conductance at which steps are clipped, minus infinity where none is seen [µS]."""
    reset: Tensor | None
    """First reads after RESET, ``[devices]``, if they were measured and differ."""

    @property
    def read_sd(self) -> tuple[float, ...]:
        """Standard deviation of a read [µS]."""
        return self.trains.read_sd

    @property
    def devices(self) -> int:
        """Number of devices."""
        return len(self.trains.reads)

    @property
    def count(self) -> int:
        """Number of steps."""
        return len(self.device)

    @property
    def high(self) -> float:
        """Conductance at which steps are clipped [µS]."""
        return self.g_max if self.bounded else math.inf

    @cached_property
    def floor(self) -> float:
        """Least standard deviation of a step [µS]."""
        return _FLOOR * float(self.sample.step.square().mean().sqrt())

    def variation(self, form: StepForm, theta: Tensor, d2d: float | None = None) -> Variation | None:
        """Quadrature for devices that differ more than their steps explain; ``None`` if they do not."""
        own, variance = self._own_steps(form, theta)
        if d2d is None:
            told = variance.isfinite()
            spread, expected = float((own[told] - 1.0).square().mean()), float(variance[told].mean())
            if not spread - expected >= 2.0 * math.sqrt(2.0 / max(int(told.sum()), 1)) * expected:
                return None
            d2d = min(math.sqrt(spread - expected), 1.0)
        precision = 1.0 / variance + 1.0 / d2d**2
        centre, width = (own / variance + 1.0 / d2d**2) / precision, precision.rsqrt()
        nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite.hermgauss(_NODES))
        at = centre + math.sqrt(2.0) * width * nodes.unsqueeze(1)
        log_weight = (weights.log() + nodes.square()).unsqueeze(1) + torch.log(math.sqrt(2.0) * width)
        return Variation(at.clamp(min=_LEAST), log_weight, d2d)

    def _own_steps(self, form: StepForm, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Step of each device relative to the law, by weighted least squares, and its variance.

        Steps that a bound cut short say too little of the device, and are left out; a device without other steps has an
        infinite variance.
        """
        s, parameters = self.sample, theta.view(-1, 1, 1)
        mean = form.mean(parameters, s.g, s.number, s.up)[0]
        noise = form.deviation(parameters, s.g, s.number, mean)[0].square() + self.floor**2
        if self.read_sd:
            noise = noise + 2.0 * Trains(s.g, s.number, self.read_sd).read_variance()
        zero = mean.new_zeros(self.devices)
        below, above = at_bounds(self.after, self.low, self.high)
        noise = torch.where(below | above, torch.inf, noise)
        weight = zero.index_add(0, self.device, mean.square() / noise)
        told, weighted = weight > _LEAST_WEIGHT, zero.index_add(0, self.device, mean * s.step / noise)
        return torch.where(told, weighted / weight, 1.0), torch.where(told, 1.0 / weight, torch.inf)


def pulse_data(found: Measurements, g_max: float | None, read_sd: tuple[float, ...]) -> PulseData:
    """Arrange measured pulses as trains, and find the bounds."""
    reads, number, direction = (padded(found, values) for values in _columns(found))
    up = direction > 0.0
    before, after = reads[:, :-1], reads[:, 1:]
    both = ~(before.isnan() | after.isnan())
    device = torch.arange(len(reads)).unsqueeze(1).expand_as(both)[both]
    sign = torch.where(up[:, 1:], 1.0, -1.0)
    sample = Sample(before[both], ((after - before) * sign)[both], number[:, 1:][both], up[:, 1:][both])
    two_sided = not bool(sample.up.all())
    if bool(sample.step.eq(0.0).all()):
        raise ValueError("fit: no pulse changes a conductance; constant data determine no step law; check the pulses")
    micro = tuple(c * 1e6 ** (1 - k) for k, c in enumerate(read_sd))
    top, low = _bound(after[both], largest=True), _bound(after[both], largest=False)
    window = rounded_up(float(found["conductance"].max())) * 1e6 if g_max is None else g_max * 1e6
    window = top if g_max is None and top is not None and not read_sd else window
    first = reads[:, 0] if not two_sided and bool((number[:, 0] == 0.0).all()) else None
    varied = first is not None and float(first.std()) > 1e-6 * float(first.mean())
    low = low if low is not None and not read_sd else (0.0 if two_sided else -1e9)
    return PulseData(
        Trains(reads, number, micro), up, sample, after[both], device, two_sided, window,
        g_max is not None or (top is not None and not read_sd), low, first if varied else None,
    )  # fmt: skip


def _columns(found: Measurements) -> tuple[np.ndarray, ...]:
    direction = found["direction"] if "direction" in found else np.ones(len(found))
    if not np.all(np.abs(direction) == 1.0):
        wrong = direction[np.abs(direction) != 1.0][0]
        raise ValueError(f"fit: direction = {wrong:g}; it must be 1 for a pulse that raises the conductance, or -1")
    return found["conductance"] * 1e6, found["pulse"], direction


def _bound(after: Tensor, *, largest: bool) -> float | None:
    """The end of the range, if at least three steps end exactly there."""
    end = after.max() if largest else after.min()
    return float(end) if int((after == end).sum()) >= 3 else None


class StepModel:
    """The likelihood of a step law with devices that differ."""

    def __init__(self, form: StepForm, data: PulseData, variation: Variation | None) -> None:
        self.form, self.data, self.variation = form, data, variation
        self._resets = _reset_parameters(data)

    @property
    def size(self) -> int:
        """Numbers per parameter vector."""
        return self.data.count * (1 if self.variation is None else _NODES)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in order."""
        return (*self.form.parameters, *self._resets, *(("d2d",) if self.variation else ()))

    @property
    def units(self) -> tuple[str, ...]:
        """Units of the parameters."""
        return tuple("S" if name in (*self.form.in_siemens, "reset") else "" for name in self.names)

    def start(self, of_form: Tensor) -> Tensor:
        """Parameters of equal devices, from those of the form."""
        return torch.cat((of_form, of_form.new_tensor(list(self._resets.values()))))

    def natural(self, theta: Tensor) -> Tensor:
        """Parameters ``[..., p]`` in the units of the device."""
        logarithms = (*self.form.logarithms, "reset_deviation", "d2d")
        factors = theta.new_tensor([1e-6 if unit == "S" else 1.0 for unit in self.units])
        is_log = torch.tensor([name in logarithms for name in self.names])
        return torch.where(is_log, theta.exp(), theta) * factors

    def values(self, theta: Tensor) -> dict[str, float]:
        """Parameters by name, conductances in siemens."""
        return dict(zip(self.names, self.natural(theta).tolist(), strict=True))

    def likelihood(self, theta: Tensor) -> Tensor:
        """Log-likelihood per device ``[batch, devices]``."""
        parameters = theta.t()[..., None, None]
        if self.data.read_sd:
            steps = self._of_trains(parameters)
        else:
            steps = self._of_steps(parameters)
        total = steps[:, 0] if self.variation is None else self._over_devices(steps, theta[:, -1:])
        if self.data.reset is None or self.data.read_sd:
            return total
        return total + self._first_read(theta)

    def _over_devices(self, steps: Tensor, log_d2d: Tensor) -> Tensor:
        assert self.variation is not None
        prior = log_normal(self.variation.at, torch.tensor(1.0), (2.0 * log_d2d).exp().unsqueeze(2))
        return torch.logsumexp(steps + prior + self.variation.log_weight, 1)

    def _own(self, index: Tensor | slice) -> Tensor:
        return torch.ones(1, 1, dtype=torch.float64) if self.variation is None else self.variation.at[:, index]

    def _of_steps(self, parameters: Tensor) -> Tensor:
        s, own = self.data.sample, self._own(self.data.device)
        parameters = parameters[: len(self.form.parameters)]
        mean = self.form.mean(parameters, s.g, s.number, s.up)
        sd = own * self.form.deviation(parameters, s.g, s.number, mean)
        sign = torch.where(s.up, 1.0, -1.0)
        after, sd = self.data.after, (sd.square() + self.data.floor**2).sqrt()
        log = exact_steps(after, s.g + sign * own * mean, sd, self.data.low, self.data.high)
        return log.new_zeros(*log.shape[:2], self.data.devices).index_add_(2, self.data.device, log)

    def _of_trains(self, parameters: Tensor) -> Tensor:
        data, own, law = self.data, self._own(slice(None)), parameters[: len(self.form.parameters)]

        def moments(g: Tensor, k: int) -> tuple[Tensor, Tensor]:
            number, up = data.trains.number[:, k], data.up[:, k]
            mean = self.form.mean(law, g, number, up)
            sd = own * self.form.deviation(law, g, number, mean)
            return torch.where(up, 1.0, -1.0) * own * mean, (sd.square() + data.floor**2).sqrt()

        low = self._reset(parameters)[0] if self.form.clips_at_reset and self._resets else torch.zeros(1, 1, 1)
        log = filtered(data.trains, moments, self._reset(parameters) if self._resets else None, low, data.high)
        return log.expand(parameters.shape[1], -1, -1)

    def _reset(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the conductance after RESET."""
        reset = parameters[self.names.index("reset")]
        if "reset_deviation" not in self._resets:
            return reset, torch.full_like(reset, 1e-6)
        return reset, (reset * parameters[self.names.index("reset_deviation")].exp()).square() + 1e-12

    def _first_read(self, theta: Tensor) -> Tensor:
        assert self.data.reset is not None
        return log_normal(self.data.reset, *(part[..., 0] for part in self._reset(theta.t()[..., None, None])))

    def successive(self, theta: Tensor) -> tuple[float, int]:
        """Correlation of the deviations of successive steps of a device from the law, and their number."""
        s, parameters = self.data.sample, theta[: len(self.form.parameters)].view(-1, 1, 1)
        mean = self.form.mean(parameters, s.g, s.number, s.up)
        apart = ((s.step - mean) / self.form.deviation(parameters, s.g, s.number, mean).clamp(min=self.data.floor))[0]
        same = self.data.device[1:] == self.data.device[:-1]
        apart = (apart * torch.where(s.up, 1.0, -1.0)).clamp(-4.0, 4.0)
        product = (apart[1:] * apart[:-1])[same]
        return float(product.mean() / apart.square().mean()), len(product)


def _reset_parameters(data: PulseData) -> dict[str, float]:
    """Start of the parameters of the conductance after RESET, if it was read: in µS, and as a logarithm."""
    if data.reset is None:
        return {}
    noise = float(data.trains.read_variance()[:, 0].mean()) if data.read_sd else 0.0
    middle, variance = float(data.reset.median()), float(data.reset.var())
    if variance < 1.5 * noise:  # the spread of RESET cannot be told from noise
        return {"reset": max(middle, 1e-6)}
    return {"reset": max(middle, 1e-6), "reset_deviation": 0.5 * math.log((variance - noise) / middle**2)}
