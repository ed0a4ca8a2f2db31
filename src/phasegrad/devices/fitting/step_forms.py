"""Step laws as functions of parameters: mean and standard deviation of a step, and the configuration they become.

Conductances are in µS. A form has a mean step in each direction, positive where the conductance moves as the pulse
says, and a standard deviation; the parameters of deviations are logarithms.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from phasegrad.devices.fitting.forms import least_squares
from phasegrad.devices.steps import (
    ConstantSteps,
    ExponentialSteps,
    LinearSteps,
    PiecewiseSteps,
    PowerSteps,
    SetPulses,
    SoftBoundsSteps,
    Steps,
)

_POINTS = 5
"""Points of a piecewise law."""


@dataclass(frozen=True)
class Sample:
    """Steps to start from, ``[n]``: conductance before, the step in the direction of its pulse, and the pulse."""

    g: Tensor
    step: Tensor
    number: Tensor
    """Pulses since RESET, this one included."""
    up: Tensor
    """Whether the pulse raises the conductance."""


@dataclass(frozen=True)
class StepForm(ABC):
    """A step law between 0 and ``g_max`` [µS]; without pulses down its parameters for them are left out."""

    g_max: float
    two_sided: bool
    bounded: bool = True
    """Whether ``g_max`` is known; a law whose steps vanish there estimates it otherwise."""

    name: ClassVar[str]
    clips_at_reset: ClassVar[bool] = False
    """Whether no pulse lowers the conductance below that of RESET."""

    @property
    @abstractmethod
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters, as printed."""

    @property
    def in_siemens(self) -> tuple[str, ...]:
        """Parameters that are conductances."""
        return ("size",)

    @property
    def logarithms(self) -> tuple[str, ...]:
        """Parameters whose logarithm is estimated."""
        return ("size", "c2c")

    @abstractmethod
    def start(self, sample: Sample) -> Tensor:
        """Parameters by least squares, as they are estimated."""

    @abstractmethod
    def mean(self, theta: Tensor, g: Tensor, number: Tensor, up: Tensor) -> Tensor:
        """Mean step; ``theta`` ``[p, batch, 1...]``, the others broadcast."""

    def deviation(self, theta: Tensor, g: Tensor, number: Tensor, mean: Tensor) -> Tensor:
        """Standard deviation of a step from cycle to cycle: ``c2c``, the last parameter, times the mean."""
        return theta[-1].exp() * mean.abs()

    @abstractmethod
    def steps(self, values: dict[str, float], d2d: float) -> Steps:
        """The configuration for parameters by name, conductances in siemens."""

    def _with_noise(self, sample: Sample, *parameters: float) -> Tensor:
        """Add a start of ``c2c``, and take the logarithm of ``size``, the first parameter."""
        size, *others = parameters
        theta = torch.tensor([math.log(max(size, 1e-9)), *others, 0.0], dtype=torch.float64)
        mean = self.mean(theta.view(-1, 1, 1), sample.g, sample.number, sample.up)[0]
        apart, scale = (sample.step - mean).square().mean(), mean.square().mean().clamp(min=1e-18)
        theta[-1] = 0.5 * torch.log((apart / scale).clamp(1e-6, 25.0))
        return theta


@final
class ConstantForm(StepForm):
    """Constant steps."""

    name = "constant"
    parameters = ("size", "c2c")  # type: ignore[assignment]

    def start(self, sample: Sample) -> Tensor:
        """Parameters by least squares."""
        return self._with_noise(sample, float(sample.step.mean()))

    def mean(self, theta: Tensor, g: Tensor, number: Tensor, up: Tensor) -> Tensor:
        """Mean step."""
        return theta[0].exp() * torch.ones_like(g)

    def steps(self, values: dict[str, float], d2d: float) -> Steps:
        """The configuration."""
        return ConstantSteps(**values, d2d=d2d)


@final
class LinearForm(StepForm):
    """Steps with a slope in each direction."""

    name = "linear"

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return ("size", "slope_up", *(("slope_down",) if self.two_sided else ()), "c2c")

    def _distance(self, g: Tensor, up: Tensor) -> Tensor:
        return torch.where(up, 1.0, -1.0).to(g.dtype) * (2.0 * g / self.g_max - 1.0)

    def start(self, sample: Sample) -> Tensor:
        """Parameters by least squares."""
        z = self._distance(sample.g, sample.up)
        columns = [torch.ones_like(z), torch.where(sample.up, z, 0.0)]
        columns += [torch.where(sample.up, 0.0, z)] if self.two_sided else []
        size, *slopes = least_squares(columns, sample.step)[0].tolist()
        size = max(size, 1e-3 * float(sample.step.abs().mean()))
        return self._with_noise(sample, size, *(-slope / size for slope in slopes))

    def mean(self, theta: Tensor, g: Tensor, number: Tensor, up: Tensor) -> Tensor:
        """Mean step."""
        slope = torch.where(up, theta[1], theta[2]) if self.two_sided else theta[1]
        return theta[0].exp() * (1.0 - slope * self._distance(g, up)).clamp(min=0.0)

    def steps(self, values: dict[str, float], d2d: float) -> Steps:
        """The configuration."""
        slopes = {name: max(values[name], 0.0) for name in values if name.startswith("slope")}
        slopes.setdefault("slope_down", slopes["slope_up"])
        return LinearSteps(size=values["size"], c2c=values["c2c"], **slopes, d2d=d2d)


@final
class SoftBoundsForm(StepForm):
    """Steps that vanish at a bound: the step at 0 without pulses down, otherwise that at the middle."""

    name = "soft bounds"

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return ("size", *(() if self.bounded else ("g_max",)), "c2c")

    @property
    def in_siemens(self) -> tuple[str, ...]:
        """Parameters that are conductances."""
        return ("size", "g_max")

    @property
    def logarithms(self) -> tuple[str, ...]:
        """Parameters whose logarithm is estimated."""
        return ("size", "g_max", "c2c")

    def start(self, sample: Sample) -> Tensor:
        """Parameters by least squares."""
        side = torch.where(sample.up, 1.0, -1.0).to(sample.g.dtype)
        offset = torch.ones_like(side) if not self.two_sided else torch.where(sample.up, 1.0, 0.0).to(side.dtype)
        (size, slope), _ = least_squares([offset, -side * sample.g], sample.step)
        bound = float(size / slope) if float(slope) * float(size) > 0.0 else math.inf
        bound = self.g_max if self.bounded else min(max(bound, 0.5 * self.g_max), 20.0 * self.g_max)
        size = float(sample.step.mean() / self._relative(sample.g, sample.up, torch.tensor(bound)).mean())
        return self._with_noise(sample, size, *(() if self.bounded else (math.log(bound),)))

    def _relative(self, g: Tensor, up: Tensor, bound: Tensor) -> Tensor:
        left = torch.where(up, 1.0 - g / bound, g / bound).clamp(min=0.0)
        return 2.0 * left if self.two_sided else left

    def mean(self, theta: Tensor, g: Tensor, number: Tensor, up: Tensor) -> Tensor:
        """Mean step."""
        bound = torch.tensor(self.g_max) if self.bounded else theta[1].exp()
        return theta[0].exp() * self._relative(g, up, bound)

    def steps(self, values: dict[str, float], d2d: float) -> Steps:
        """The configuration."""
        return SoftBoundsSteps(size=values["size"], c2c=values["c2c"], from_zero=not self.two_sided, d2d=d2d)


@final
class ExponentialForm(StepForm):
    """``size max(1 - a exp(+-gamma z), 0)`` with ``z = 2 G / g_max - 1``, which fixes the redundant scale and shift."""

    name = "exponential"

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return ("size", "a_up", "gamma_up", *(("a_down", "gamma_down") if self.two_sided else ()), "c2c")

    @property
    def logarithms(self) -> tuple[str, ...]:
        """Parameters whose logarithm is estimated."""
        return ("size", "a_up", "a_down", "c2c")

    def start(self, sample: Sample) -> Tensor:
        """Parameters by least squares."""
        z = torch.where(sample.up, 1.0, -1.0).to(sample.g.dtype) * (2.0 * sample.g / self.g_max - 1.0)
        found = []
        for side in (True, False)[: 2 if self.two_sided else 1]:
            at, step = z[sample.up == side], sample.step[sample.up == side]
            found.append(
                min((_exponential(at, step, gamma) for gamma in (0.5, 1.0, 2.0, 4.0, 8.0)), key=lambda f: f[0])
            )
        size = max(sum(f[1] for f in found) / len(found), 1e-6)
        others = [v for _, own, fall, gamma in found for v in (math.log(max(fall / own, 1e-4)), gamma)]
        return self._with_noise(sample, size, *others)

    def mean(self, theta: Tensor, g: Tensor, number: Tensor, up: Tensor) -> Tensor:
        """Mean step."""
        z = 2.0 * g / self.g_max - 1.0
        fall = torch.exp(theta[1] + theta[2] * z)
        if self.two_sided:
            fall = torch.where(up, fall, torch.exp(theta[3] - theta[4] * z))
        return theta[0].exp() * (1.0 - fall).clamp(min=0.0)

    def steps(self, values: dict[str, float], d2d: float) -> Steps:
        """The configuration."""
        down = {"a_down": values["a_up"], "gamma_down": values["gamma_up"]} | values
        return ExponentialSteps(**down, scale=1.0, shift=0.0, d2d=d2d)


def _exponential(z: Tensor, step: Tensor, gamma: float) -> tuple[float, float, float, float]:
    (size, fall), error = least_squares([torch.ones_like(z), -torch.exp(gamma * z)], step)
    return error if size > 0.0 and fall > 0.0 else math.inf, max(float(size), 1e-6), float(fall), gamma


@final
class PowerForm(StepForm):
    """``size (distance to the bound / range)^gamma``."""

    name = "power"

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return ("size", "gamma_up", *(("gamma_down",) if self.two_sided else ()), "c2c")

    @property
    def logarithms(self) -> tuple[str, ...]:
        """Parameters whose logarithm is estimated."""
        return ("size", "gamma_up", "gamma_down", "c2c")

    def _left(self, g: Tensor, up: Tensor) -> Tensor:
        return torch.where(up, 1.0 - g / self.g_max, g / self.g_max).clamp(min=1e-6)

    def start(self, sample: Sample) -> Tensor:
        """Parameters by least squares."""
        left, gammas, sizes = self._left(sample.g, sample.up), [], []
        for side in (True, False)[: 2 if self.two_sided else 1]:
            at, step = left[sample.up == side], sample.step[sample.up == side]
            tried = [(*least_squares([at**gamma], step), gamma) for gamma in (0.1, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)]
            size, _, gamma = min(tried, key=lambda f: f[1])
            gammas.append(math.log(gamma))
            sizes.append(float(size))
        return self._with_noise(sample, sum(sizes) / len(sizes), *gammas)

    def mean(self, theta: Tensor, g: Tensor, number: Tensor, up: Tensor) -> Tensor:
        """Mean step."""
        gamma = (torch.where(up, theta[1], theta[2]) if self.two_sided else theta[1]).exp()
        return theta[0].exp() * self._left(g, up) ** gamma

    def steps(self, values: dict[str, float], d2d: float) -> Steps:
        """The configuration."""
        return PowerSteps(**({"gamma_down": values["gamma_up"]} | values), d2d=d2d)


@final
class PiecewiseForm(StepForm):
    """Steps on straight lines between equidistant points."""

    name = "piecewise"

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters."""
        sides = ("up", "down") if self.two_sided else ("up",)
        return (*(f"{side}.{k}" for side in sides for k in range(_POINTS)), "c2c")

    @property
    def in_siemens(self) -> tuple[str, ...]:
        """Parameters that are conductances."""
        return self.parameters[:-1]

    @property
    def logarithms(self) -> tuple[str, ...]:
        """Parameters whose logarithm is estimated."""
        return self.parameters

    def _hats(self, g: Tensor, up: Tensor) -> list[Tensor]:
        at = (g / self.g_max).clamp(0.0, 1.0) * (_POINTS - 1)
        hats = [(1.0 - (at - k).abs()).clamp(min=0.0) for k in range(_POINTS)]
        return (
            [torch.where(up, h, 0.0) for h in hats] + [torch.where(up, 0.0, h) for h in hats]
            if self.two_sided
            else hats
        )

    def start(self, sample: Sample) -> Tensor:
        """Parameters by least squares."""
        found, least = least_squares(self._hats(sample.g, sample.up), sample.step)[0], float(sample.step.abs().mean())
        size, *others = found.clamp(min=0.02 * least).log().tolist()
        return self._with_noise(sample, math.exp(size), *others)

    def mean(self, theta: Tensor, g: Tensor, number: Tensor, up: Tensor) -> Tensor:
        """Mean step."""
        return sum(theta[k].exp() * hat for k, hat in enumerate(self._hats(g, up)))  # type: ignore[return-value]

    def steps(self, values: dict[str, float], d2d: float) -> Steps:
        """The configuration."""
        up = [values[f"up.{k}"] for k in range(_POINTS)]
        down = [values[f"down.{k}"] for k in range(_POINTS)] if self.two_sided else up
        size = sum(up) / len(up)
        curves = (tuple(point / size for point in curve) for curve in (up, down))
        return PiecewiseSteps(size=size, c2c=values["c2c"], **dict(zip(("up", "down"), curves, strict=True)), d2d=d2d)


@final
class SetForm(StepForm):
    """SET pulses on PCM, with a history since RESET."""

    name = "set pulses"
    clips_at_reset = True
    parameters = ("m_G", "m_0", "m_P", "history_length", "s_G", "s_0", "s_P")  # type: ignore[assignment]
    in_siemens = ("m_0", "m_P", "s_0", "s_P")  # type: ignore[assignment]
    logarithms = ("history_length",)  # type: ignore[assignment]

    def start(self, sample: Sample) -> Tensor:
        """Parameters by least squares."""
        tried = []
        for length in (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0):
            columns = [sample.g, torch.ones_like(sample.g), torch.exp(-sample.number / length)]
            found, error = least_squares(columns, sample.step)
            tried.append((error, length, columns, found))
        _, length, columns, found = min(tried, key=lambda t: t[0])
        apart = (sample.step - torch.stack(columns, 1) @ found).abs() * math.sqrt(0.5 * math.pi)
        spread = least_squares(columns, apart)[0]
        spread = torch.where(spread > 0.0, spread, 0.05 * apart.mean())
        return torch.cat((found, found.new_tensor([math.log(length)]), spread))

    def mean(self, theta: Tensor, g: Tensor, number: Tensor, up: Tensor) -> Tensor:
        """Mean step."""
        return theta[0] * g + theta[1] + theta[2] * torch.exp(-number / theta[3].exp())

    def deviation(self, theta: Tensor, g: Tensor, number: Tensor, mean: Tensor) -> Tensor:
        """Standard deviation of a step."""
        return (theta[4] * g + theta[5] + theta[6] * torch.exp(-number / theta[3].exp())).clamp(min=1e-3)

    def steps(self, values: dict[str, float], d2d: float) -> Steps:
        """The configuration."""
        size = values["m_0"]
        if size <= 0.0:
            raise ValueError(
                f"fit: set pulses have a mean step of m_0 = {size:g} S at 0; it must be above 0; fit another law"
            )
        return SetPulses(
            size=size, d2d=d2d, history_length=values["history_length"],
            mean=(values["m_G"], 1.0, values["m_P"] / size),
            deviation=(values["s_G"], values["s_0"] / size, values["s_P"] / size),
            reset=values["reset"], reset_deviation=values["reset_deviation"],
        )  # fmt: skip


FORMS: tuple[type[StepForm], ...] = (
    ConstantForm, SoftBoundsForm, LinearForm, PowerForm, ExponentialForm, PiecewiseForm, SetForm,
)  # fmt: skip
