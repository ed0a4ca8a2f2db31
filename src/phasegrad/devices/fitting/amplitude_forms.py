"""Curves of conductance against pulse current, as functions of parameters."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn.functional import softplus

from phasegrad.devices.amplitude import AmplitudeResponse

_SHARPNESS = 200.0
"""Inverse width of the bend at the onset, relative to the fall.

A sharp bend would make third derivatives of the likelihood, which intervals need, depend on the distance of single
pulses to the onset. This one changes conductances by less than 1e-4 of the SET conductance at a shape of 2.
"""


class CurveForm(ABC):
    """A curve that falls from 1 to 0 with the current."""

    name: str
    parameters: tuple[str, ...]
    is_device: ClassVar[bool] = True
    """Whether ``AmplitudeResponse`` has this curve."""

    @abstractmethod
    def fall(self, theta: Tensor, current: Tensor) -> Tensor:
        """The curve; ``theta`` ``[p, batch, 1...]`` and currents broadcast."""

    @abstractmethod
    def with_slope(self, theta: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
        """The curve and its derivative to the current."""

    @abstractmethod
    def starts(self, low: float, high: float) -> Tensor:
        """Parameters ``[starts, p]`` to choose from, for currents between two ends."""


@final
class MeltAndQuench(CurveForm):
    """``cos(pi x / 2)^(2 shape)`` between ``onset`` and ``complete``; the logarithm of ``shape`` is estimated."""

    def __init__(self, shape: float | None) -> None:
        self.shape = shape
        self.name = "free shape" if shape is None else f"shape {shape:g}"
        self.parameters = ("onset", "complete", *(("shape",) if shape is None else ()))

    def fall(self, theta: Tensor, current: Tensor) -> Tensor:
        """The curve."""
        angle, shape = self._angle(theta, current)
        return angle.cos().log().mul(2.0 * shape).exp()

    def with_slope(self, theta: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
        """The curve and its derivative."""
        angle, shape = self._angle(theta, current)
        fall = angle.cos().log().mul(2.0 * shape).exp()
        bend = 1.0 - (-_SHARPNESS / (0.5 * math.pi) * angle).exp()  # the derivative of softplus
        return fall, angle.tan() * fall * bend * (-math.pi * shape / self._width(theta))

    def _angle(self, theta: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
        """``pi x / 2`` and the shape."""
        x = softplus((current - theta[0]) / self._width(theta), beta=_SHARPNESS).clamp(max=1.0 - 1e-9)
        shape = theta[2].exp() if self.shape is None else torch.full_like(theta[0], self.shape)
        return x * (0.5 * math.pi), shape

    def _width(self, theta: Tensor) -> Tensor:
        return (theta[1] - theta[0]).clamp(min=1e-3)

    def starts(self, low: float, high: float) -> Tensor:
        """Parameters to choose from."""
        width = high - low
        onset = low + width * torch.linspace(-0.2, 0.6, 9, dtype=torch.float64)
        complete = low + width * torch.linspace(0.3, 1.2, 10, dtype=torch.float64)
        shape = torch.tensor(
            (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0) if self.shape is None else (self.shape,), dtype=torch.float64
        ).log()
        tried = torch.cartesian_prod(onset, complete, shape)
        return tried[tried[:, 1] - tried[:, 0] > 0.1 * width][:, : len(self.parameters)]


@final
class Logistic(CurveForm):
    """``1 / (1 + exp((I - centre) / width))``: what the others are compared with; no device has it."""

    name, parameters, is_device = "logistic", ("centre", "width"), False

    def fall(self, theta: Tensor, current: Tensor) -> Tensor:
        """The curve."""
        return torch.sigmoid((theta[0] - current) / theta[1].exp())

    def with_slope(self, theta: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
        """The curve and its derivative."""
        fall = self.fall(theta, current)
        return fall, fall * (fall - 1.0) / theta[1].exp()

    def starts(self, low: float, high: float) -> Tensor:
        """Parameters to choose from."""
        centre = low + (high - low) * torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
        width = ((high - low) * torch.tensor((0.02, 0.05, 0.1, 0.2), dtype=torch.float64)).log()
        return torch.cartesian_prod(centre, width)


CURVE_FORMS: tuple[CurveForm, ...] = (MeltAndQuench(None), MeltAndQuench(AmplitudeResponse.shape), Logistic())
CURVE_NAMES = tuple(form.name for form in CURVE_FORMS if form.is_device)
"""Names of curves, as ``fit`` accepts them."""
