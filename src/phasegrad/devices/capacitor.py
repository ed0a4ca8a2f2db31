"""A capacitor on the gate of a transistor: the volatile device of near-linear steps."""

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
    """Three transistors and a capacitor (3T1C): two charge and discharge it, its voltage sets the third's conductance.

    ``G(t) = rest + (G - rest) exp(-t / tau)``. Charge leaks towards that of the reference cell beside it, which is why
    a read against it tends to 0. Programming is exact, and reads are noiseless. How a pulse depends on the voltage is
    the slope of its step law, transistors that differ are its ``spread`` and ``imbalance`` (Ambrogio et al., Nature
    558:60, 2018; time constants of milliseconds are widely reported, the exact one is a parameter).

    Args:
        g_max: highest conductance [S].
        tau: time constant of the leak [s]; infinite for none.
        rest: conductance that leaks lead to, over ``g_max``.
        steps: how it answers pulses.

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
        if not self.tau > 0.0:
            raise ValueError(f"Capacitor: tau = {self.tau} s; it must be above 0, infinite for no leak")
        check_type(self, "steps", (Steps, type(None)))

    @property
    def reads_are_noisy(self) -> bool:
        """They are not."""
        return False

    @property
    def drifts(self) -> bool:
        """Whether it leaks."""
        return math.isfinite(self.tau)

    def leak(self, seconds: float) -> tuple[float, float]:
        """Towards ``rest``, by ``1 - exp(-t / tau)``: the charge is all there is to know."""
        return self.rest * self.g_max, -math.expm1(-seconds / self.tau)

    def program(self, target: Tensor, seed: Tensor, offset: int) -> DeviceState:
        """Charge capacitors, exactly."""
        return DeviceState(target.float().clone(), torch.zeros_like(target, dtype=torch.float32))

    def drift(self, state: DeviceState, age: Tensor) -> Tensor:
        """Conductance [S] after a time [s]."""
        g = state.conductance
        lost = -torch.expm1(-age / self.tau).to(g.dtype)
        lost = lost.reshape(()) if lost.numel() == 1 else lost
        return torch.lerp(g, torch.full((), self.rest * self.g_max, dtype=g.dtype, device=g.device), lost)

    def read(self, state: DeviceState, age: Tensor, seed: Tensor, offset: int) -> Tensor:
        """Conductance [S] after a time [s]."""
        return self.drift(state, age)
