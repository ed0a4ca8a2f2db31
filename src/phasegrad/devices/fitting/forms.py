"""Forms of a law of ``g = G / g_max``: its parameters, where a fit starts, and the configuration that it becomes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from phasegrad.devices.curves import Curve, Law, Power

_KINKS = (0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85)


class Form(ABC):
    """A law with some parameters; ``least`` is the number of different ``g`` that determine it."""

    name: ClassVar[str]
    parameters: ClassVar[tuple[str, ...]]
    least: ClassVar[int]

    @abstractmethod
    def value(self, theta: Tensor, g: Tensor) -> Tensor:
        """The law ``[batch, n]`` for parameters ``[batch, p]`` at ``g`` ``[n]``."""

    @abstractmethod
    def start(self, g: Tensor, y: Tensor) -> Tensor:
        """Parameters ``[p]`` by least squares."""

    @abstractmethod
    def law(self, theta: Tensor, g: Tensor) -> Law:
        """The configuration, constant beyond the range of the measured ``g``."""

    def natural(self, theta: Tensor) -> Tensor:
        """Parameters as the configuration has them, monotonic in each."""
        return theta

    def rounded(self, error: float) -> Form:
        """The form with its corners rounded by an error of its values, for the search."""
        return self


def least_squares(columns: list[Tensor], y: Tensor) -> tuple[Tensor, float]:
    """Coefficients of the columns, and the sum of squared residuals."""
    design = torch.stack(columns, 1)
    found = torch.linalg.lstsq(design, y.unsqueeze(1), driver="gelsd").solution.squeeze(1)
    return found, float((y - design @ found).square().sum())


class _Linear(Form):
    """A law that is linear in its parameters."""

    @abstractmethod
    def columns(self, g: Tensor) -> list[Tensor]:
        """What each parameter multiplies."""

    def value(self, theta: Tensor, g: Tensor) -> Tensor:
        """The law at ``g``."""
        return theta @ torch.stack(self.columns(g))

    def start(self, g: Tensor, y: Tensor) -> Tensor:
        """Parameters by least squares."""
        return least_squares(self.columns(g), y)[0]

    def _range(self, theta: Tensor, g: Tensor) -> tuple[float, float]:
        over = torch.linspace(float(g.min()), float(g.max()), 101, dtype=torch.float64)
        low, high = self.value(theta[None], over).aminmax()
        return float(low), float(high)


@final
class Constant(_Linear):
    """``c``."""

    name, parameters, least = "constant", ("constant",), 1

    def columns(self, g: Tensor) -> list[Tensor]:
        """What each parameter multiplies."""
        return [torch.ones_like(g)]

    def law(self, theta: Tensor, g: Tensor) -> Law:
        """The configuration."""
        return Curve(polynomial=(float(theta[0]),))


@final
class Logarithm(_Linear):
    """``a ln g + c``."""

    name, parameters, least = "logarithm", ("log_slope", "constant"), 2

    def columns(self, g: Tensor) -> list[Tensor]:
        """What each parameter multiplies."""
        return [g.log(), torch.ones_like(g)]

    def law(self, theta: Tensor, g: Tensor) -> Law:
        """The configuration."""
        low, high = self._range(theta, g)
        return Curve(log_slope=float(theta[0]), polynomial=(float(theta[1]),), low=low, high=high)


@final
class Quadratic(_Linear):
    """``c0 + c1 g + c2 g^2``."""

    name, parameters, least = "quadratic", ("c0", "c1", "c2"), 4

    def columns(self, g: Tensor) -> list[Tensor]:
        """What each parameter multiplies."""
        return [torch.ones_like(g), g, g * g]

    def law(self, theta: Tensor, g: Tensor) -> Law:
        """The configuration."""
        low, high = self._range(theta, g)
        return Curve(polynomial=tuple(theta.tolist()), low=low, high=high)


@final
@dataclass(frozen=True)
class ClippedLogarithm(Form):
    """``max(a ln g + c, low)``, as published for the drift of PCM.

    The sharp law has a corner in its likelihood wherever a measured level changes sides: several maxima, some of them
    without second derivatives, so that errors seem to be half of what they are. Estimates are those of a hyperbola that
    exceeds the law by ``rounding`` at the corner, and by less elsewhere.

    References:
        Tishler, A. & Zang, I. A new maximum likelihood algorithm for piecewise regression. J. Am. Stat. Assoc. 76, 980
        (1981).
    """

    rounding: float = 0.0

    name, parameters, least = "clipped logarithm", ("log_slope", "constant", "low"), 4

    def rounded(self, error: float) -> Form:
        """The form with its corner rounded by an error of its values."""
        return ClippedLogarithm(error)

    def value(self, theta: Tensor, g: Tensor) -> Tensor:
        """The law at ``g``."""
        slope, constant, low = theta.unsqueeze(2).unbind(1)
        above = slope * g.log() + constant - low
        return low + 0.5 * (above + (above.square() + 4.0 * self.rounding**2).sqrt())

    def start(self, g: Tensor, y: Tensor) -> Tensor:
        """Parameters by least squares."""
        x = g.log()
        tried = []
        for kink in torch.quantile(x, torch.tensor(_KINKS, dtype=x.dtype)).tolist():
            (low, slope), error = least_squares([torch.ones_like(x), (x - kink).clamp(max=0.0)], y)
            tried.append((error, (float(slope), float(low - slope * kink), float(low))))
        return torch.tensor(min(tried)[1], dtype=torch.float64)

    def law(self, theta: Tensor, g: Tensor) -> Law:
        """The configuration."""
        slope, constant, low = theta.tolist()
        high = max(low, slope * math.log(float(g.min())) + constant)
        return Curve(log_slope=slope, polynomial=(constant,), low=low, high=high)


@final
class PowerLaw(Form):
    """``factor g^exponent``; the parameters are ``ln factor`` and the exponent."""

    name, parameters, least = "power", ("factor", "exponent"), 2

    def value(self, theta: Tensor, g: Tensor) -> Tensor:
        """The law at ``g``."""
        return torch.exp(theta[:, :1] + theta[:, 1:] * g.log())

    def start(self, g: Tensor, y: Tensor) -> Tensor:
        """Parameters by least squares."""
        exponent, logarithm = least_squares([g.log(), torch.ones_like(g)], y.clamp(min=1e-12).log())[0]
        return torch.stack((logarithm, exponent))

    def natural(self, theta: Tensor) -> Tensor:
        """Parameters as the configuration has them."""
        return torch.stack((theta[..., 0].exp(), theta[..., 1]), -1)

    def law(self, theta: Tensor, g: Tensor) -> Law:
        """The configuration."""
        factor, exponent = self.natural(theta).tolist()
        high = factor * max(float(g.min()) ** exponent, float(g.max()) ** exponent)
        return Power(factor=factor, exponent=exponent, high=high)


@final
class FlatNoise(Form):
    """A constant above 0; the parameter is its logarithm."""

    name, parameters, least = "constant", ("constant",), 1

    def value(self, theta: Tensor, g: Tensor) -> Tensor:
        """The law at ``g``."""
        return theta[:, :1].exp().expand(-1, len(g))

    def start(self, g: Tensor, y: Tensor) -> Tensor:
        """Parameters by least squares."""
        return y.square().mean().sqrt().log().view(1)

    def natural(self, theta: Tensor) -> Tensor:
        """Parameters as the configuration has them."""
        return theta.exp()

    def law(self, theta: Tensor, g: Tensor) -> Law:
        """The configuration."""
        return Curve(polynomial=(float(theta[0].exp()),))


DRIFT_FORMS: tuple[Form, ...] = (Constant(), Logarithm(), ClippedLogarithm(), Quadratic())
NOISE_FORMS: tuple[Form, ...] = (FlatNoise(), PowerLaw())


def polynomial(theta: Tensor, g: Tensor) -> Tensor:
    """A polynomial ``[batch, n]`` with coefficients ``[batch, degree + 1]``, lowest power first."""
    powers = torch.stack([g**k for k in range(theta.shape[1])])
    return theta @ powers
