"""Noise that remembers: 1/f noise with its correlation in time, and random telegraph noise."""

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
    """How fast it forgets [1/s]."""
    variance: float
    """Its variance when it is old, in units of ``Q^2``."""


@final
@dataclass(frozen=True, kw_only=True)
class CorrelatedNoise(Configuration):
    """1/f noise as a sum of Ornstein-Uhlenbeck processes, each advanced exactly between any two times.

    The modes start at 0 at programming, with the variance ``Q^2`` per e-fold of rate up to
    ``exp(-0.5772) / (4 t_read)``. Over all of them a device of the age ``T`` then has the variance
    ``Q^2 ln(T / (2 t_read))``, which is what a device without memory draws at each read, and reads ``tau`` apart have
    the covariance ``Q^2 ln(1 + 2 T / tau)`` for ``tau`` well above ``t_read``. Modes slower than a device is old have
    not begun to matter: those below the slowest that is needed are one mode of half their highest rate and of
    variance ``2 Q^2``, which is right to second order in their rate times the age.

    Two modes a decade give the variance to 2e-5 from 0 s to ``longest``. Each mode is a float32 of memory and, when
    time passes, a normal, for every device: 32 modes and 132 bytes at the defaults and a read of 250 ns.

    Args:
        modes_per_decade: of rate; 1 gives the variance to 0.3 %.
        shortest: correlation times below this are drawn afresh at each read [s], which saves their modes. 0: whatever
            is read at one time of the clock reads the same.
        longest: greatest age for which the law holds to the accuracy above [s].

    Raises:
        ValueError: a number is out of its range.

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
                f"CorrelatedNoise: longest = {self.longest} s with shortest = {self.shortest} s; it must be ten times "
                "as long at least"
            )

    def modes(self, t_read: float) -> tuple[Mode, ...]:
        """What is remembered, fast modes first, for reads that last ``t_read`` [s]."""
        step = math.log(10.0) / self.modes_per_decade
        highest = self._highest_remembered(t_read)
        lowest = 0.15 / self.longest  # the one mode for all below is then wrong by 2e-4 Q^2, less than the others' sum
        count = math.ceil(math.log(highest / lowest) / step)
        edge = highest * math.exp(-count * step)
        inner = (Mode(highest * math.exp(-(k + 0.5) * step), step) for k in range(count))
        # Sums over the modes of rates edge exp(-step / 2), edge exp(-3 step / 2), ...: of variance times rate / edge,
        # and times its square.
        first, second = (step * math.exp(-0.5 * n * step) / -math.expm1(-n * step) for n in (1, 2))
        return (*inner, Mode(edge * second / first, first**2 / second))

    def fresh_variance(self, t_read: float) -> float:
        """Variance that each read draws anew, in units of ``Q^2``."""
        return math.log(_highest(t_read) / self._highest_remembered(t_read))

    def _highest_remembered(self, t_read: float) -> float:
        return min(_highest(t_read), 1.0 / self.shortest) if self.shortest else _highest(t_read)

    def advance(self, held: Tensor, seconds: float, t_read: float, seed: Tensor, offset: int) -> None:
        """Let modes ``[modes, *shape]`` live for a time [s], in place; draws from a stream each."""
        for k, (rate, variance) in enumerate(self.modes(t_read)):
            sd = math.sqrt(-variance * math.expm1(-2.0 * rate * seconds))
            drawn = torch.ops.phasegrad.normal(seed, offset + k, held[k].shape)
            held[k].mul_(math.exp(-rate * seconds)).add_(drawn.mul_(sd))


def _highest(t_read: float) -> float:
    """The rate [1/s] at which a sharp end of the modes gives the variance of a read that lasts ``t_read`` [s]."""
    return math.exp(-EULER) / (4.0 * t_read)


@final
@dataclass(frozen=True, kw_only=True)
class Telegraph(Configuration):
    """Random telegraph noise: on some devices a defect switches the conductance between two values.

    The device is in the higher state for ``duty`` of the time and forgets its state at a rate of its own, drawn
    log-uniformly when it is programmed: the sum of the rates up and down. Its mean is that of a device without a
    defect. Devices have the autocovariance ``fraction amplitude^2 duty (1 - duty) mean(exp(-rate tau))``. Two float32
    of memory for every device. Fraction, amplitude and rates differ from material to material; none is published as
    *the* value, so there is no default.

    Args:
        fraction: of the devices that have such a defect, 0 to 1.
        amplitude: difference between the two states, over the drifted conductance.
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
            raise ValueError(
                f"Telegraph: rates = {self.rates}; give a tuple of the lowest and the highest, finite and above 0 [1/s]"
            )

    def start(self, held: Tensor, seed: Tensor, offset: int) -> None:
        """Draw rate and deviation, ``[2, *shape]``, of devices that are new; draws from three streams."""
        rate, deviation = held
        chosen, spread, state = (torch.ops.phasegrad.uniform(seed, offset + i, rate.shape) for i in range(3))
        low, high = self.rates
        with_defect = chosen < self.fraction
        rate.copy_(torch.where(with_defect, low * torch.exp(spread * math.log(high / low)), 0.0))
        deviation.copy_(torch.where(with_defect, self.equilibrium(state), 0.0))

    def advance(self, held: Tensor, seconds: float, seed: Tensor, offset: int) -> None:
        """Let ``[2, *shape]`` live for a time [s], in place; draws from two streams."""
        rate, deviation = held
        event, state = (torch.ops.phasegrad.uniform(seed, offset + i, rate.shape) for i in range(2))
        deviation.copy_(torch.where(self.forgets(rate, seconds, event), self.equilibrium(state), deviation))

    def equilibrium(self, uniform: Tensor) -> Tensor:
        """A state, as its deviation from the mean in amplitudes, that knows nothing of an earlier one."""
        return (uniform < self.duty).float() - self.duty

    def forgets(self, rate: Tensor, seconds: Tensor | float, uniform: Tensor) -> Tensor:
        """Whether defects forget their state within a time [s]: a two-state process is just that, renewed."""
        return uniform < -torch.expm1(-rate * seconds)
