"""Slope correction: the mean drift of the devices' law, without any read."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from phasegrad import argument_checks as checks
from phasegrad.devices import Device
from phasegrad.inference.compensations.base import Compensation, correct_gains
from phasegrad.inference.programming import Seeds
from phasegrad.nn import AnalogLayer
from phasegrad.stores import AnalogWeight
from phasegrad.stores.drift_reference import mean_age

_SAMPLES = 1 << 14  # devices of the test array: its mean drift is known to 0.3 %
_REFERENCE = 1.0  # the age that an exponent counts from, if the device's law has no time of its own [s]


@final
@dataclass(frozen=True, kw_only=True)
class SlopeCorrection(Compensation):
    """Steepen the response of every layer as much as its devices have drifted on average (Ambrogio et al. 2019).

    In the paper the slope of the activation function follows the mean drift. Here the factor multiplies the output of
    the tiles, before the bias, which is digital and does not drift: for an activation ``f`` of the product ``y`` alone
    both are ``f(s y)``, and the factor also serves layers without an activation, and tanh or sigmoid, whose scale
    cannot be moved behind them. It is a function of the age and of the law of the devices, and needs no read: it does
    not know this chip, so neither its mean exponent nor a temperature that its devices' law does not follow.

    The mean of the law is that of a test array: devices programmed evenly over the window drift to this age, and their
    mean conductance above RESET is compared with that after programming.

    Args:
        exponent: mean drift exponent, for a factor of ``((age + t0) / t0) ** exponent``; ``None`` for the law of the
            devices.
        t0: time from programming to the first read [s], if ``exponent`` is given.

    References:
        Ambrogio, S. et al. Reducing the impact of phase-change memory conductance drift on the inference of large-scale
        hardware neural networks. IEDM 2019. https://doi.org/10.1109/IEDM19573.2019.8993482

    Examples:
        >>> import phasegrad as pg
        >>> chip = pg.inference.program(pg.convert(nn.Linear(8, 4), pg.presets.ideal_inference()), seed=0)
        >>> old = pg.inference.age(chip, seconds=3.15e7)
        >>> pg.inference.compensate(old, SlopeCorrection(exponent=0.05, t0=20.0)).devices.gain.max().round(decimals=2)
        tensor(2.0400)
    """

    sets_gain: ClassVar[bool] = True
    exponent: float | None = None
    t0: float = _REFERENCE

    def __post_init__(self) -> None:
        checks.number("SlopeCorrection", "t0", self.t0, 0.0, above=True, unit="s")
        if self.exponent is not None:
            checks.number("SlopeCorrection", "exponent", self.exponent)

    def apply(self, chip: nn.Module, seeds: Seeds) -> None:
        """Set the gains of all tiles."""

        def correct(layer: AnalogLayer, devices: AnalogWeight, seed: Tensor) -> None:
            devices.stop_tracking()
            devices.gain.fill_(self.factor(devices))

        correct_gains(chip, correct, seeds)

    def factor(self, devices: AnalogWeight) -> float:
        """The gain of these devices at their age."""
        age = max(0.0, mean_age(devices))
        if self.exponent is not None:
            return ((age + self.t0) / self.t0) ** self.exponent
        return 1.0 / mean_drift(devices.cell.device, age, devices.heat)

    def reads(self, chip: nn.Module) -> int:
        """No tile read."""
        return 0


@torch.no_grad()
def mean_drift(device: Device, age: float, heat: Tensor | None = None) -> float:
    """The conductance above RESET at an age [s] over that after programming, averaged over the window of a device.

    Args:
        device: the device.
        age: time since programming [s].
        heat: temperature and its past effect, see [`DeviceState`][phasegrad.devices.DeviceState].
    """
    if heat is None:
        return _mean_drift(device, age)
    return _signal(device, age, heat.cpu()) / _signal(device, 0.0, device.heat())


@functools.lru_cache(maxsize=256)
def _mean_drift(device: Device, age: float) -> float:
    return _signal(device, age, None) / _signal(device, 0.0, None)


def _signal(device: Device, age: float, heat: Tensor | None) -> float:
    """The mean drifted conductance of a test array above that of devices at RESET [S]."""
    half, seed = _SAMPLES // 2, torch.zeros(1, dtype=torch.int64)
    fractions = (torch.arange(half, dtype=torch.float32) + 0.5) / half
    targets = device.in_window(torch.stack((fractions, torch.zeros(half))))
    state = device.program(targets, seed, 0)._replace(heat=heat)
    programmed, at_reset = device.drift(state, torch.tensor(age, dtype=torch.float64)).double().mean(1)
    return float(programmed - at_reset)
