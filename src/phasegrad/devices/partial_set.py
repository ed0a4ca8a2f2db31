"""Partial SET: the conductance of a device against the length of a pulse that crystallises it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from phasegrad.configuration import Configuration, check_number


@final
@dataclass(frozen=True, kw_only=True)
class PartialSet(Configuration):
    """Growth of the conductance during a SET pulse of any length.

    The law is measured at one length: a pulse of ``length`` seconds changes the conductance ``G`` by a normal step with
    the mean ``mean[0] + mean[1] G`` and the standard deviation ``deviation[0] + deviation[1] G``. Other lengths follow
    from it by one assumption, that consecutive pulses equal one pulse of the same total length. The conductance then is
    an Ornstein-Uhlenbeck process: with ``n`` the length over ``length``, ``rho = 1 + mean[1]`` and the plateau
    ``G_inf = -mean[0] / mean[1]``, the mean is ``G_inf + (G - G_inf) rho ** n`` and the variance is that of one pulse
    times ``(1 - rho ** (2 n)) / (1 - rho ** 2)``. The conductance is all that a device remembers.

    Args:
        length: length of the measured pulse [s].
        mean: its mean step, lowest power of the conductance first; the first is in siemens and above 0, the second
            between -1 and 0.
        deviation: standard deviation of its step, of the same form.
        lowest: conductance after RESET [S], below which no pulse leads.
        highest: conductance beyond which no pulse leads [S].
        rate_sd: standard deviation of the logarithm of the speed of growth from device to device.
        current: current of the pulses [A], for their energy.

    References:
        Nandakumar, S. R. et al. A phase-change memory model for neuromorphic computing. J. Appl. Phys. 124, 152135
        (2018). https://doi.org/10.1063/1.5042408

    Examples:
        >>> law = PartialSet(length=50e-9, mean=(0.892e-6, -0.084), deviation=(0.0, 0.0), lowest=0.1e-6, highest=20e-6)
        >>> start, still = torch.tensor([0.1e-6]), torch.zeros(1)
        >>> two = law.after(law.after(start, torch.tensor(50e-9), still, still), torch.tensor(50e-9), still, still)
        >>> bool((two - law.after(start, torch.tensor(100e-9), still, still)).abs() < 1e-12)
        True
    """

    length: float
    mean: tuple[float, float]
    deviation: tuple[float, float]
    lowest: float
    highest: float
    rate_sd: float = 0.0
    current: float = 90e-6

    def __post_init__(self) -> None:
        for name in ("length", "highest", "current"):
            check_number(self, name, 0.0, above=True)
        for name in ("lowest", "rate_sd"):
            check_number(self, name, 0.0)
        if self.lowest >= self.highest:
            raise ValueError(f"PartialSet: lowest = {self.lowest} S; it must be below highest = {self.highest} S")
        if not (self.mean[0] > 0.0 and -1.0 < self.mean[1] < 0.0):
            raise ValueError(
                f"PartialSet: mean = {self.mean}; the step at a conductance of 0 must be above 0 and shrink by a "
                "slope between -1 and 0, so that the conductance has a plateau"
            )
        if not all(math.isfinite(c) and c >= 0.0 for c in self.deviation):
            raise ValueError(f"PartialSet: deviation = {self.deviation}; both numbers must be finite and at least 0")

    @property
    def plateau(self) -> float:
        """Conductance that long pulses approach [S]."""
        return -self.mean[0] / self.mean[1]

    @property
    def time_constant(self) -> float:
        """Time in which the distance to the plateau falls by a factor of e, for the median device [s]."""
        return -self.length / math.log1p(self.mean[1])

    @property
    def speed(self) -> float:
        """Growth of the median device after RESET [S/s]."""
        return (self.plateau - self.lowest) / self.time_constant

    def after(self, conductance: Tensor, seconds: Tensor, device: Tensor, pulse: Tensor) -> Tensor:
        """Conductances [S] after one pulse each.

        Args:
            conductance: conductances before it, without drift and read noise [S].
            seconds: lengths of the pulses [s]; 0 for no pulse.
            device: standard normals that distinguish the devices, the same in every call.
            pulse: standard normals of this pulse.

        Returns:
            Conductances of the same shape [S]; those without a pulse are unchanged.
        """
        decay = torch.exp(-seconds * torch.exp(self.rate_sd * device) / self.time_constant)
        spread = ((1.0 - decay * decay) / (1.0 - (1.0 + self.mean[1]) ** 2)).sqrt()
        sd = self.deviation[0] + self.deviation[1] * conductance
        grown = self.plateau + (conductance - self.plateau) * decay + sd * spread * pulse
        return torch.where(seconds > 0.0, grown.clamp(self.lowest, self.highest), conductance)


def nandakumar_2018_partial_set(*, rate_sd: float = 0.0) -> PartialSet:
    """SET pulses of any length on doped-GST mushroom cells, 90 nm.

    The step of one pulse is the published one without history. That pulses of 50 ns and 90 uA add up to longer ones,
    and shorter ones to them, is an assumption of [`PartialSet`][phasegrad.devices.PartialSet].

    Args:
        rate_sd: standard deviation of the logarithm of the speed of growth from device to device; the published
            deviation of a step already contains some of it.

    References:
        Nandakumar, S. R. et al. A phase-change memory model for neuromorphic computing. J. Appl. Phys. 124, 152135
        (2018). https://doi.org/10.1063/1.5042408

    Examples:
        >>> round(nandakumar_2018_partial_set().plateau * 1e6, 1)
        10.6
    """
    return PartialSet(
        length=50e-9, mean=(0.892e-6, -0.084), deviation=(0.575e-6, 0.09), lowest=0.1e-6, highest=20e-6,
        rate_sd=rate_sd,
    )  # fmt: skip
