"""Step laws: the change of conductance by one pulse, for devices that are trained in the memory.

Sizes are in siemens. Variation from device to device (``d2d``, ``imbalance``, ``bounds_d2d``, ``stuck``) is drawn once
per device, variation from cycle to cycle (``c2c``) at every pulse. Laws with both directions suit cells of one device
and a reference; in a pair, each device receives only pulses that raise its conductance. Jump tables are in
``phasegrad.devices.jump_tables``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from phasegrad.configuration import Configuration, check_finite, check_number
from phasegrad.deprecation import renamed_arguments
from phasegrad.ops import pulses

STREAMS = 5
"""Streams that ``Steps.draw`` uses."""


@dataclass(frozen=True, kw_only=True)
class Steps(Configuration, ABC):
    """A step law.

    Args:
        size: step of a nominal device at the conductance where the law is 1 [S].
        c2c: standard deviation of a step from cycle to cycle, relative to its mean.
        d2d: standard deviation of ``size`` from device to device, relative to ``size``.
        imbalance: standard deviation of the ratio of steps up and down from device to device; the mean ratio is 1.
        bounds_d2d: standard deviation of the bounds from device to device, relative to ``g_max``.
        stuck: fraction of devices that do not respond to pulses.
    """

    size: float
    c2c: float = 0.0
    d2d: float = 0.0
    imbalance: float = 0.0
    bounds_d2d: float = 0.0
    stuck: float = 0.0

    _renamed: ClassVar[dict[str, str]] = {
        "noise": "c2c",
        "spread": "d2d",
        "bound_spread": "bounds_d2d",
        "remembers": "has_history",
    }

    def __post_init__(self) -> None:
        check_number(self, "size", 0.0, above=True)
        for name in ("c2c", "d2d", "imbalance", "bounds_d2d"):
            check_number(self, name, 0.0)
        check_number(self, "stuck", 0.0, 1.0)

    @property
    def family(self) -> int:
        """Number of the law in ``phasegrad.ops.pulses``."""
        return pulses.LINEAR

    @property
    def two_sided(self) -> bool:
        """Whether pulses can also lower the conductance."""
        return True

    @property
    def has_history(self) -> bool:
        """Whether steps depend on a history variable in addition to the conductance."""
        return False

    @property
    def lowest(self) -> float:
        """Nominal lowest conductance [S]."""
        return 0.0

    def after_reset(self, lowest: Tensor, seed: Tensor, offset: int) -> Tensor:
        """Conductances [S] after RESET of devices with these lowest conductances [S]."""
        return lowest

    def history_of(self, target: Tensor) -> Tensor:
        """History of devices that were RESET and then pulsed up to targets [S]; 1 if steps do not depend on it."""
        return torch.ones_like(target)

    def nominal(self, fraction: float, two_sided: bool) -> float:
        """The step [S] that an update counts on, for a cell whose weight 0 is at a fraction of the window.

        It is ``size``, except for laws whose step there is another one. In a cell with both directions it is the mean
        of the steps up and down, otherwise the step up.
        """
        return self.size

    @abstractmethod
    def coefficients(self, g_max: float) -> tuple[float, ...]:
        """Coefficients of the law, in the order that ``phasegrad.ops.pulses.pulsed_update`` expects."""

    def draw(self, shape: tuple[int, ...], g_max: float, two_sided: bool, seed: Tensor, offset: int) -> Tensor:
        """Draw the fixed parameters of each device: step up, step down, lowest and highest conductance [S].

        Args:
            shape: shape of the array of devices.
            g_max: nominal highest conductance [S].
            two_sided: whether the lowest conductance varies as the highest does. In a cell with a reference the lowest
                conductance is a difference and may be negative.
            seed: seed of the draws.
            offset: first of ``STREAMS`` streams.

        Returns:
            Parameters ``[4, *shape]`` [S].
        """
        step, ratio, low, high = (torch.ops.phasegrad.normal(seed, offset + i, shape) for i in range(4))
        least = 0.01  # cuts the tail of the normal distribution, which would give steps of the wrong sign
        size = self.size * (1.0 + self.d2d * step).clamp(min=least)
        root = (1.0 + self.imbalance * ratio).clamp(min=least).sqrt()
        moves = torch.ops.phasegrad.uniform(seed, offset + 4, shape) >= self.stuck
        return torch.stack(
            (
                size * root * moves,
                size / root * moves,
                self.lowest + g_max * self.bounds_d2d * low * two_sided,
                g_max * (1.0 + self.bounds_d2d * high).clamp(min=0.1),
            )
        )


def _counted(size: float, up: float, down: float, two_sided: bool) -> float:
    """The step that an update counts on [S], from those up and down in units of ``size``; above 0."""
    mean = 0.5 * (up + down) if two_sided else up
    return size * mean if mean > 0.0 else size


@final
@dataclass(frozen=True, kw_only=True)
class ConstantSteps(Steps):
    """Steps of constant ``size`` between hard bounds.

    References:
        Gokmen, T. & Vlasov, Y. Acceleration of deep neural network training with resistive cross-point devices: design
        considerations. Front. Neurosci. 10, 333 (2016). https://doi.org/10.3389/fnins.2016.00333

    Examples:
        >>> ConstantSteps(size=20e-9, c2c=0.3, d2d=0.3, imbalance=0.02).two_sided
        True
    """

    def coefficients(self, g_max: float) -> tuple[float, ...]:
        """Noise, slopes of 0, and the conductance of the nominal step."""
        return (self.c2c, 0.0, 0.0, g_max / 2.0)


@final
@dataclass(frozen=True, kw_only=True)
class LinearSteps(Steps):
    """Steps up of ``size (1 - slope (G - g_max / 2) / (bound - g_max / 2))``, mirrored for steps down, clipped at 0.

    Args:
        size: step at ``g_max / 2`` [S].
        slope_up: slope of steps up; 0 for constant steps, 1 for steps that vanish at the bound.
        slope_down: slope of steps down.
    """

    slope_up: float
    slope_down: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "slope_up", 0.0)
        check_number(self, "slope_down", 0.0)

    def coefficients(self, g_max: float) -> tuple[float, ...]:
        """Noise, both slopes, and the conductance of the nominal step."""
        return (self.c2c, self.slope_up, self.slope_down, g_max / 2.0)


@final
@dataclass(frozen=True, kw_only=True)
class SoftBoundsSteps(Steps):
    """Steps that decrease linearly from ``size`` to 0 at a bound, which is approached but not reached.

    Args:
        from_zero: whether the step is ``size`` at 0, as suits a pair, or at ``g_max / 2``, as suits a cell of one
            device and a reference.
    """

    from_zero: bool = False

    def coefficients(self, g_max: float) -> tuple[float, ...]:
        """Noise, slopes of 1, and the conductance of the nominal step."""
        return (self.c2c, 1.0, 1.0, 0.0 if self.from_zero else g_max / 2.0)


@final
@dataclass(frozen=True, kw_only=True)
class ExponentialSteps(Steps):
    """Steps of ``size max(1 - a exp(+-gamma z), 0)``, plus for steps up, minus for steps down.

    The variable is ``z = scale (2 G / g_max - 1) + shift``.

    References:
        Gong, N. et al. Signal and noise extraction from analog memory elements for neuromorphic computing. Nat.
        Commun. 9, 2102 (2018). https://doi.org/10.1038/s41467-018-04485-1
    """

    a_up: float = 0.00081
    a_down: float = 0.36833
    gamma_up: float = 12.44625
    gamma_down: float = 12.78785
    scale: float = 0.244
    shift: float = 0.2425

    def __post_init__(self) -> None:
        super().__post_init__()
        check_finite(self, "a_up", "a_down", "gamma_up", "gamma_down", "scale", "shift")

    @property
    def family(self) -> int:
        """Number of the law."""
        return pulses.EXPONENTIAL

    def nominal(self, fraction: float, two_sided: bool) -> float:
        """The step at the weight 0 [S]."""
        z = self.scale * (2.0 * fraction - 1.0) + self.shift
        up, down = self.a_up * math.exp(self.gamma_up * z), self.a_down * math.exp(-self.gamma_down * z)
        return _counted(self.size, max(1.0 - up, 0.0), max(1.0 - down, 0.0), two_sided)

    def coefficients(self, g_max: float) -> tuple[float, ...]:
        """Noise and coefficients, with ``z`` shifted to start at a conductance of 0."""
        return (
            self.c2c, self.a_up, self.gamma_up, self.a_down, self.gamma_down, self.scale, self.shift - self.scale,
        )  # fmt: skip


@final
@dataclass(frozen=True, kw_only=True)
class PowerSteps(Steps):
    """Steps of ``size (distance to the bound / range) ** gamma``.

    ``size`` is the step at the opposite bound. An update counts on the step at a weight of 0.
    """

    gamma_up: float
    gamma_down: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "gamma_up", 0.0)
        check_number(self, "gamma_down", 0.0)

    @property
    def family(self) -> int:
        """Number of the law."""
        return pulses.POWER

    def nominal(self, fraction: float, two_sided: bool) -> float:
        """The step at the weight 0 [S]."""
        return _counted(self.size, (1.0 - fraction) ** self.gamma_up, fraction**self.gamma_down, two_sided)

    def coefficients(self, g_max: float) -> tuple[float, ...]:
        """Noise and both exponents."""
        return (self.c2c, self.gamma_up, self.gamma_down)


@final
@dataclass(frozen=True, kw_only=True)
class PiecewiseSteps(Steps):
    """Steps of ``size`` times a curve, linear between equidistant points from the lowest to the highest conductance.

    Args:
        up: curve of steps up, two or more points, none below 0.
        down: curve of steps down, with the same number of points.
    """

    up: tuple[float, ...]
    down: tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        points = (*self.up, *self.down)
        if len(self.up) < 2 or len(self.up) != len(self.down) or not all(0.0 <= p < math.inf for p in points):
            raise ValueError(
                f"PiecewiseSteps: up = {self.up}, down = {self.down}; give two or more points, the same "
                "number in both, finite and not below 0"
            )

    @property
    def family(self) -> int:
        """Number of the law."""
        return pulses.PIECEWISE

    def nominal(self, fraction: float, two_sided: bool) -> float:
        """The step at the weight 0 [S]."""
        at = fraction * (len(self.up) - 1)
        left = min(int(at), len(self.up) - 2)
        up, down = (c[left] + (at - left) * (c[left + 1] - c[left]) for c in (self.up, self.down))
        return _counted(self.size, up, down, two_sided)

    def coefficients(self, g_max: float) -> tuple[float, ...]:
        """Noise, the number of points, then both curves."""
        return (self.c2c, float(len(self.up)), *self.up, *self.down)


@final
@dataclass(frozen=True, kw_only=True)
class SetPulses(Steps):
    """SET pulses on phase-change memory, which raise the conductance on average.

    Mean and standard deviation of a step depend on the conductance and on a history ``P``, which is 1 after RESET and
    is multiplied by ``exp(-1 / history_length)`` at each pulse: ``dG ~ N(m_G G + m_0 + m_P P, s_G G + s_0 + s_P P)``.
    Single steps are often negative.

    Args:
        size: mean step at a conductance of 0 and a history of 0 [S], the nominal step of an update; the law scales
            with it.
        history_length: pulses after which the history has decayed to 1/e.
        mean: ``m_G, m_0 / size, m_P / size``.
        deviation: ``s_G, s_0 / size, s_P / size``.
        reset: mean conductance after RESET, below which pulses do not lower it [S].
        reset_deviation: standard deviation of the conductance after RESET, relative to ``reset``, drawn at each RESET.
    """

    history_length: float
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    reset: float
    reset_deviation: float = 0.1

    _renamed: ClassVar[dict[str, str]] = {"memory": "history_length"}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "history_length", 0.0, above=True)
        check_number(self, "reset", 0.0)
        check_finite(self, "mean", "deviation")
        check_number(self, "reset_deviation", 0.0)
        if self.c2c != 0.0:
            raise ValueError(f"SetPulses: c2c = {self.c2c}; it must be 0, because deviation is the noise of this law")

    @property
    def family(self) -> int:
        """Number of the law."""
        return pulses.HISTORY

    @property
    def two_sided(self) -> bool:
        """Whether pulses can also lower the conductance; always ``False``, because RESET is abrupt."""
        return False

    @property
    def has_history(self) -> bool:
        """Whether steps depend on a history; always ``True``."""
        return True

    @property
    def lowest(self) -> float:
        """``reset``, the lower bound of the conductance [S]."""
        return self.reset

    def after_reset(self, lowest: Tensor, seed: Tensor, offset: int) -> Tensor:
        """Conductances [S] after RESET, which differ from RESET to RESET."""
        drawn = torch.ops.phasegrad.normal(seed, offset, lowest.shape)
        return lowest * (1.0 + self.reset_deviation * drawn).clamp(min=0.0)

    def history_of(self, target: Tensor) -> Tensor:
        """``exp(-n / history_length)`` after the ``n`` pulses in which the mean conductance reaches the target."""
        reached = torch.tensor(self._mean_course(), dtype=torch.float64, device=target.device)
        number = torch.searchsorted(reached * (1.0 + 1e-6), target.double())  # targets are rounded to float32
        return torch.exp(-number / self.history_length).to(target.dtype)

    def _mean_course(self) -> list[float]:
        """Mean conductances [S] after 0, 1, 2, ... pulses that follow a RESET, up to saturation."""
        slope, constant, of_history = self.mean
        course, history, most = [self.reset], 1.0, math.ceil(32.0 * self.history_length)
        while len(course) < most:
            history *= math.exp(-1.0 / self.history_length)
            step = slope * course[-1] + (constant + of_history * history) * self.size
            if step <= 1e-3 * self.size:
                break
            course.append(course[-1] + step)
        return course

    def coefficients(self, g_max: float) -> tuple[float, ...]:
        """Coefficients with steps in units of ``size`` and conductance in siemens."""
        (m_g, m_0, m_p), (s_g, s_0, s_p) = self.mean, self.deviation
        return (0.0, math.exp(-1.0 / self.history_length), m_g / self.size, m_0, m_p, s_g / self.size, s_0, s_p)


@renamed_arguments(spread="device_variation")
def nandakumar_2018(*, device_variation: float = 0.0) -> SetPulses:
    """SET pulses on doped-GST mushroom cells, 90 nm.

    Args:
        device_variation: relative standard deviation of the step from device to device.

    References:
        Nandakumar, S. R. et al. A phase-change memory model for neuromorphic computing. J. Appl. Phys. 124, 152135
        (2018). https://doi.org/10.1063/1.5042408

    Examples:
        The mean step vanishes at 0.880 / 0.084 = 10.5 uS:

        >>> steps = nandakumar_2018()
        >>> round(-steps.mean[1] * steps.size / steps.mean[0] * 1e6, 1)
        10.5
    """
    size = 0.880e-6
    return SetPulses(
        size=size,
        d2d=device_variation,
        history_length=2.6,
        mean=(-0.084, 1.0, 1.40 / 0.880),
        deviation=(0.091, 0.260 / 0.880, 2.15 / 0.880),
        reset=0.1e-6,
    )
