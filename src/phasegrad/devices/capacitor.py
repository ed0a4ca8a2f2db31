"""A capacitor on the gate of a transistor: a volatile device with near-linear steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from phasegrad.configuration import check_number, check_type
from phasegrad.devices.base import Device, DeviceState
from phasegrad.devices.steps import Steps


@final
@dataclass(frozen=True, kw_only=True)
class Capacitor(Device):
    """Three transistors and a capacitor (3T1C): two transistors charge and discharge it, and it gates the third.

    ``G(t) = rest + (G - rest) exp(-t / tau)``. Charge leaks towards that of the reference cell, so that a read against
    the reference tends to 0. Programming is exact and reads are noiseless. The slope of the step law is the dependence
    of a step on the voltage; its ``d2d`` and ``imbalance`` are the variability of the transistors. Time constants of
    milliseconds are widely reported; the exact value is a parameter.

    Args:
        g_max: highest conductance [S].
        tau: time constant of the leak [s]; infinite for no leak.
        rest: conductance to which the cell leaks, relative to ``g_max``.
        steps: response to pulses.

    References:
        Ambrogio, S. et al. Equivalent-accuracy accelerated neural-network training using analogue memory. Nature 558,
        60-67 (2018). https://doi.org/10.1038/s41586-018-0180-5

    Examples:
        >>> from phasegrad.devices import LinearSteps
        >>> steps = LinearSteps(size=20e-9, slope_up=0.2, slope_down=0.2, imbalance=0.1)
        >>> device = Capacitor(g_max=20e-6, tau=5e-3, steps=steps)
        >>> state = device.program(torch.tensor([20e-6]), torch.tensor([0]), 0)
        >>> device.drift(state, torch.tensor(5e-3, dtype=torch.float64)) * 1e6  # 10 (1 + 1/e)
        tensor([13.6788])
    """

    tau: float = math.inf
    rest: float = 0.5

    def __post_init__(self) -> None:
        check_number(self, "g_max", 0.0, above=True)
        check_number(self, "rest", 0.0, 1.0)
        check_type(self, "tau", (int, float))
        if not self.tau > 0.0:
            raise ValueError(f"Capacitor: tau = {self.tau} s; it must be above 0; give math.inf for no leak")
        check_type(self, "steps", (Steps, type(None)))

    @property
    def reads_are_noisy(self) -> bool:
        """Whether a read differs from the conductance; always ``False``."""
        return False

    @property
    def drifts(self) -> bool:
        """Whether the capacitor leaks."""
        return math.isfinite(self.tau)

    def leak(self, seconds: float) -> tuple[float, float]:
        """The conductance ``rest`` [S], and the fraction ``1 - exp(-t / tau)`` of the distance to it."""
        return self.rest * self.g_max, -math.expm1(-seconds / self.tau)

    def program(self, target: Tensor, seed: Tensor, offset: int) -> DeviceState:
        """Charge capacitors to targets [S], exactly."""
        return DeviceState(target.float().clone(), torch.zeros_like(target, dtype=torch.float32))

    def programming_deviation(self, target: Tensor) -> Tensor:
        """Zeros, because programming is exact."""
        return torch.zeros_like(target)

    def drift(self, state: DeviceState, age: Tensor) -> Tensor:
        """Conductance [S] after a time [s]."""
        g = state.conductance
        lost = -torch.expm1(-age / self.tau).to(g.dtype)
        lost = lost.reshape(()) if lost.numel() == 1 else lost
        return torch.lerp(g, torch.full((), self.rest * self.g_max, dtype=g.dtype, device=g.device), lost)

    def read(self, state: DeviceState, age: Tensor, seed: Tensor, offset: int) -> Tensor:
        """Conductance [S] after a time [s]."""
        return self.drift(state, age)
