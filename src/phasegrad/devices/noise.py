"""Correlated noise: 1/f noise with its correlation in time, and random telegraph noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from phasegrad.configuration import Configuration, check_number

EULER = 0.5772156649015329


class Mode(NamedTuple):
    """An Ornstein-Uhlenbeck process."""

    rate: float
    """Relaxation rate, the inverse of the correlation time [1/s]."""
    variance: float
    """Stationary variance, in units of ``Q^2``."""


@final
@dataclass(frozen=True, kw_only=True)
class CorrelatedNoise(Configuration):
    """1/f noise as a sum of Ornstein-Uhlenbeck processes, each advanced exactly between any two times.

    The modes start at 0 at programming, with a variance of ``Q^2`` per e-fold of rate up to the rate
    ``exp(-0.5772) / (4 t_read)``. The sum of all modes of a device of age ``T`` has the variance
    ``Q^2 ln(T / (2 t_read))``, equal to that of a device whose noise is redrawn at each read. Reads at a distance
    ``tau`` well above ``t_read`` have the covariance ``Q^2 ln(1 + 2 T / tau)``. Modes with correlation times far above
    the age of the device contribute little: all modes below the slowest required rate are combined into one, with half
    the highest of their rates and a variance of ``2 Q^2``, which is correct to second order in rate times age.

    Two modes per decade reproduce the variance to 2e-5 from 0 s to ``longest``. Each mode needs one float32 per device
    and one normal draw per device when time advances: 32 modes and 132 bytes at the defaults and a read of 250 ns.

    Args:
        modes_per_decade: modes per decade of rate; 1 reproduces the variance to 0.3 %.
        shortest: noise with correlation times below this is redrawn at each read [s], which saves its modes. With 0,
            all reads at the same time return the same conductance.
        longest: largest age for which the accuracy stated above holds [s].

    Raises:
        ValueError: a number is out of its range.

    References:
        The variance is the 1/f noise of Joshi, V. et al. Accurate deep neural network inference using computational
        phase-change memory. Nat. Commun. 11, 2473 (2020), Methods. https://doi.org/10.1038/s41467-020-16108-9
        The decomposition into modes is derived here.

    Examples:
        >>> noise = CorrelatedNoise()
        >>> len(noise.modes(250e-9)), len(CorrelatedNoise(shortest=1.0).modes(250e-9))
        (32, 20)
    """

    modes_per_decade: float = 2.0
    shortest: float = 0.0
    longest: float = 3.2e8

    def __post_init__(self) -> None:
        check_number(self, "modes_per_decade", 0.5, 20.0)
        check_number(self, "shortest", 0.0)
        check_number(self, "longest", 0.0, above=True)
        if self.longest < 10.0 * self.shortest:
            raise ValueError(
                f"CorrelatedNoise: longest = {self.longest} s with shortest = {self.shortest} s; longest must be at "
                "least 10 shortest"
            )

    def modes(self, t_read: float) -> tuple[Mode, ...]:
        """The modes, fastest first, for reads that last ``t_read`` [s]."""
        step = math.log(10.0) / self.modes_per_decade
        highest = self._highest_rate(t_read)
        lowest = (
            0.15 / self.longest
        )  # the error of the one mode below is then 2e-4 Q^2, less than that of the sum of the others
        count = math.ceil(math.log(highest / lowest) / step)
        edge = highest * math.exp(-count * step)
        inner = (Mode(highest * math.exp(-(k + 0.5) * step), step) for k in range(count))
        # Sums over the modes of rates edge exp(-step / 2), edge exp(-3 step / 2), ... of the variance times rate / edge
        # and times (rate / edge)^2.
        first, second = (step * math.exp(-0.5 * n * step) / -math.expm1(-n * step) for n in (1, 2))
        return (*inner, Mode(edge * second / first, first**2 / second))

    def fresh_variance(self, t_read: float) -> float:
        """Variance that is redrawn at each read, in units of ``Q^2``."""
        return math.log(_highest(t_read) / self._highest_rate(t_read))

    def _highest_rate(self, t_read: float) -> float:
        return min(_highest(t_read), 1.0 / self.shortest) if self.shortest else _highest(t_read)

    def advance(self, held: Tensor, seconds: float, t_read: float, seed: Tensor, offset: int) -> None:
        """Advance modes ``[modes, *shape]`` by a time [s], in place; each mode draws from its own stream."""
        for k, (rate, variance) in enumerate(self.modes(t_read)):
            sd = math.sqrt(-variance * math.expm1(-2.0 * rate * seconds))
            drawn = torch.ops.phasegrad.normal(seed, offset + k, held[k].shape)
            held[k].mul_(math.exp(-rate * seconds)).add_(drawn.mul_(sd))


def _highest(t_read: float) -> float:
    """Cut-off rate [1/s] that reproduces the variance of a read that lasts ``t_read`` [s]."""
    return math.exp(-EULER) / (4.0 * t_read)


@final
@dataclass(frozen=True, kw_only=True)
class Telegraph(Configuration):
    """Random telegraph noise: on some devices a defect switches the conductance between two values.

    A device is in the higher state for a fraction ``duty`` of the time. Its relaxation rate, the sum of the rates up
    and down, is drawn log-uniformly when the device is programmed. The mean conductance is that of a device without a
    defect. The autocovariance over devices is ``fraction amplitude^2 duty (1 - duty) mean(exp(-rate tau))``. The state
    is two float32 per device. Fraction, amplitude and rates depend on the material and have no generally accepted
    values, so they have no defaults.

    Args:
        fraction: fraction of devices with such a defect, 0 to 1.
        amplitude: difference between the two states, relative to the drifted conductance.
        rates: lowest and highest rate [1/s].
        duty: fraction of the time in the higher state.

    Raises:
        ValueError: a number is out of its range.
    """

    fraction: float
    amplitude: float
    rates: tuple[float, float]
    duty: float = 0.5

    def __post_init__(self) -> None:
        check_number(self, "fraction", 0.0, 1.0)
        check_number(self, "amplitude", 0.0, 1.0)
        check_number(self, "duty", 0.0, 1.0)
        valid = (
            isinstance(self.rates, tuple)
            and len(self.rates) == 2
            and all(math.isfinite(r) and r > 0.0 for r in self.rates)
        )
        if not valid or self.rates[0] > self.rates[1]:
            raise ValueError(f"Telegraph: rates = {self.rates}; give (lowest, highest), both finite and above 0 [1/s]")

    def start(self, held: Tensor, seed: Tensor, offset: int) -> None:
        """Draw the rate and the deviation ``[2, *shape]`` of new devices, from three streams."""
        rate, deviation = held
        chosen, position, state = (torch.ops.phasegrad.uniform(seed, offset + i, rate.shape) for i in range(3))
        low, high = self.rates
        with_defect = chosen < self.fraction
        rate.copy_(torch.where(with_defect, low * torch.exp(position * math.log(high / low)), 0.0))
        deviation.copy_(torch.where(with_defect, self.equilibrium(state), 0.0))

    def advance(self, held: Tensor, seconds: float, seed: Tensor, offset: int) -> None:
        """Advance the state ``[2, *shape]`` by a time [s], in place; draws from two streams."""
        rate, deviation = held
        event, state = (torch.ops.phasegrad.uniform(seed, offset + i, rate.shape) for i in range(2))
        deviation.copy_(torch.where(self.relaxes(rate, seconds, event), self.equilibrium(state), deviation))

    def equilibrium(self, uniform: Tensor) -> Tensor:
        """An equilibrium state from a uniform draw, as the deviation from the mean in units of the amplitude."""
        return (uniform < self.duty).float() - self.duty

    def relaxes(self, rate: Tensor, seconds: Tensor | float, uniform: Tensor) -> Tensor:
        """Whether defects return to equilibrium within a time [s], which is exact for a two-state process."""
        return uniform < -torch.expm1(-rate * seconds)
