"""How a device answers a pulse: the step laws of devices that are trained in the memory.

A law says what one pulse does to a conductance. Sizes are in siemens; how a device differs from the next (``d2d``,
``imbalance``, ``bounds_d2d``, ``stuck``) is drawn once in its life, how a pulse differs from the next (``c2c``)
every time. Laws of two directions serve cells of one device against a reference; in a pair each device takes pulses in
its growing direction alone.

Sources: Gokmen and Vlasov, Front. Neurosci. 10:333 (2016) for constant steps; Gong et al., Nat. Commun. 9:2102 (2018)
for the exponential law; Nandakumar et al., J. Appl. Phys. 124, 152135 (2018) for PCM. Jump tables are next door.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from phasegrad.configuration import Configuration, check_number
from phasegrad.deprecation import renamed_arguments
from phasegrad.ops import pulses

STREAMS = 5
"""Offsets that :meth:`Steps.draw` takes."""


@dataclass(frozen=True, kw_only=True)
class Steps(Configuration, ABC):
    """A step law.

    Args:
        size: step of a nominal device where the law is 1 [S].
        c2c: standard deviation of a pulse's step over its mean.
        d2d: standard deviation of ``size`` from device to device, relative.
        imbalance: standard deviation of the ratio of steps up and down from device to device; its mean is 1.
        bounds_d2d: standard deviation of the bounds from device to device, over ``g_max``.
        stuck: fraction of devices that no pulse moves.
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
        """Number of the law in :mod:`phasegrad.ops.pulses`."""
        return pulses.LINEAR

    @property
    def two_sided(self) -> bool:
        """Whether pulses can lower the conductance too."""
        return True

    @property
    def has_history(self) -> bool:
        """Whether a device keeps a history beside its conductance."""
        return False

    @property
    def lowest(self) -> float:
        """Nominal lowest conductance [S]."""
        return 0.0

    @abstractmethod
    def coefficients(self, g_max: float) -> tuple[float, ...]:
        """Numbers of the law as :func:`phasegrad.ops.pulses.pulsed_update` takes them."""

    def draw(self, shape: tuple[int, ...], g_max: float, two_sided: bool, seed: Tensor, offset: int) -> Tensor:
        """What each device is for life: step up, step down, lowest and highest conductance, ``[4, *shape]`` [S].

        Args:
            shape: of the devices.
            g_max: nominal highest conductance [S].
            two_sided: whether the lowest conductance is spread as the highest; against a reference, "low" is a
                difference, which may lie below 0.
            seed: of the draws.
            offset: first of ``STREAMS`` streams.
        """
        own, ratio, low, high = (torch.ops.phasegrad.normal(seed, offset + i, shape) for i in range(4))
        least = 0.01  # a normal spread has a tail that no device has
        size = self.size * (1.0 + self.d2d * own).clamp(min=least)
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


@final
@dataclass(frozen=True, kw_only=True)
class ConstantSteps(Steps):
    """Every pulse steps by ``size``, up to hard bounds.

    Examples:
        >>> ConstantSteps(size=20e-9, c2c=0.3, d2d=0.3, imbalance=0.02).two_sided
        True
    """

    def coefficients(self, g_max: float) -> tuple[float, ...]:
        """Slopes of 0."""
        return (self.c2c, 0.0, 0.0, g_max / 2.0)


@final
@dataclass(frozen=True, kw_only=True)
class LinearSteps(Steps):
    """``size (1 - slope (G - g_max / 2) / (bound - g_max / 2))`` upwards, and its mirror downwards; never below 0.

    Args:
        size: step at ``g_max / 2`` [S].
        slope_up: 0 for constant steps, 1 for steps that vanish at the bound.
        slope_down: the same, downwards.
    """

    slope_up: float
    slope_down: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "slope_up", 0.0)
        check_number(self, "slope_down", 0.0)

    def coefficients(self, g_max: float) -> tuple[float, ...]:
        """Both slopes, and where they are 1."""
        return (self.c2c, self.slope_up, self.slope_down, g_max / 2.0)


@final
@dataclass(frozen=True, kw_only=True)
class SoftBoundsSteps(Steps):
    """Steps shrink linearly from ``size`` to 0 on the way to a bound that is never reached.

    In a cell of one device they start at ``g_max / 2``, in a pair at 0.

    Args:
        from_zero: whether the full step is taken at 0, as a pair wants, or at ``g_max / 2``.
    """

    from_zero: bool = False

    def coefficients(self, g_max: float) -> tuple[float, ...]:
        """Slopes of 1, and where the step is full."""
        return (self.c2c, 1.0, 1.0, 0.0 if self.from_zero else g_max / 2.0)


@final
@dataclass(frozen=True, kw_only=True)
class ExponentialSteps(Steps):
    """``size max(1 - a exp(+-gamma z), 0)``, ``z = scale (2 G / g_max - 1) + shift``; plus upwards, minus downwards."""

    a_up: float = 0.00081
    a_down: float = 0.36833
    gamma_up: float = 12.44625
    gamma_down: float = 12.78785
    scale: float = 0.244
    shift: float = 0.2425

    @property
    def family(self) -> int:
        """Number of the law."""
        return pulses.EXPONENTIAL

    def coefficients(self, g_max: float) -> tuple[float, ...]:
        """The op's z counts from a conductance of 0."""
        return (
            self.c2c, self.a_up, self.gamma_up, self.a_down, self.gamma_down, self.scale, self.shift - self.scale,
        )  # fmt: skip


@final
@dataclass(frozen=True, kw_only=True)
class PowerSteps(Steps):
    """``size (distance to the bound / range) ** gamma``."""

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

    def coefficients(self, g_max: float) -> tuple[float, ...]:
        """Both exponents."""
        return (self.c2c, self.gamma_up, self.gamma_down)


@final
@dataclass(frozen=True, kw_only=True)
class PiecewiseSteps(Steps):
    """``size`` times a curve of the conductance, linear between even points from the lowest to the highest.

    Args:
        up: the curve upwards, two points or more, none below 0.
        down: as many points, downwards.
    """

    up: tuple[float, ...]
    down: tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        points = (*self.up, *self.down)
        if len(self.up) < 2 or len(self.up) != len(self.down) or not all(0.0 <= p < math.inf for p in points):
            raise ValueError(
                f"PiecewiseSteps: up = {self.up}, down = {self.down}; give as many points in both, two or more, "
                "finite and not below 0"
            )

    @property
    def family(self) -> int:
        """Number of the law."""
        return pulses.PIECEWISE

    def coefficients(self, g_max: float) -> tuple[float, ...]:
        """How many points, then both curves."""
        return (self.c2c, float(len(self.up)), *self.up, *self.down)


@final
@dataclass(frozen=True, kw_only=True)
class SetPulses(Steps):
    """SET pulses on phase-change memory, which grows only: mean and spread of a step depend on conductance and past.

    With ``P`` the history, 1 after RESET and ``exp(-1 / history_length)`` of itself at each pulse,
    ``dG ~ N(m_G G + m_0 + m_P P, s_G G + s_0 + s_P P)``. Single steps are often negative.

    Args:
        size: mean step of a device at RESET whose history has faded [S]; the granularity of an update. The law
            scales with it.
        history_length: pulses after which the history has fallen to 1/e.
        mean: ``m_G, m_0 / size, m_P / size``.
        deviation: ``s_G, s_0 / size, s_P / size``.
        reset: conductance after RESET, the lowest there is [S].
    """

    history_length: float
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    reset: float

    _renamed: ClassVar[dict[str, str]] = {"memory": "history_length"}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "history_length", 0.0, above=True)
        check_number(self, "reset", 0.0)
        if self.c2c != 0.0:
            raise ValueError(f"SetPulses: c2c = {self.c2c}; `deviation` holds it, so it must be 0")

    @property
    def family(self) -> int:
        """Number of the law."""
        return pulses.HISTORY

    @property
    def two_sided(self) -> bool:
        """RESET is abrupt and not a step."""
        return False

    @property
    def has_history(self) -> bool:
        """The history ``P``."""
        return True

    @property
    def lowest(self) -> float:
        """``reset``; none falls below it."""
        return self.reset

    def coefficients(self, g_max: float) -> tuple[float, ...]:
        """The op counts a step in units of ``size``, and conductance in siemens."""
        (m_g, m_0, m_p), (s_g, s_0, s_p) = self.mean, self.deviation
        return (0.0, math.exp(-1.0 / self.history_length), m_g / self.size, m_0, m_p, s_g / self.size, s_0, s_p)


@renamed_arguments(spread="device_variation")
def nandakumar_2018(*, device_variation: float = 0.0) -> SetPulses:
    """Doped-GST mushroom cells, 90 nm: Nandakumar et al., J. Appl. Phys. 124, 152135 (2018).

    Args:
        device_variation: relative standard deviation of the step from device to device.

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
