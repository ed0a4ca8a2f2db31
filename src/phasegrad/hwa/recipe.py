"""How digital weights are trained to survive on the hardware."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from phasegrad.configuration import Configuration, check_choice, check_number, check_type
from phasegrad.crossbar import Hardware, Perturbation
from phasegrad.devices import PCM
from phasegrad.nn import analog_layers


@dataclass(frozen=True, kw_only=True)
class WeightNoise(Configuration, ABC):
    """Noise that training adds to the weights, fresh at each step."""

    @abstractmethod
    def coefficients(self, hardware: Hardware) -> tuple[float, float, float]:
        """Standard deviation over the column's scale, as coefficients of powers of ``|w| / scale`` from 0."""


@final
@dataclass(frozen=True, kw_only=True)
class AdditiveNoise(WeightNoise):
    """The same for all weights of a column: ``sd = sigma * scale``."""

    sigma: float

    def __post_init__(self) -> None:
        check_number(self, "sigma", 0.0)

    def coefficients(self, hardware: Hardware) -> tuple[float, float, float]:
        """Constant."""
        return (self.sigma, 0.0, 0.0)


@final
@dataclass(frozen=True, kw_only=True)
class MultiplicativeNoise(WeightNoise):
    """In proportion to the weight: ``sd = sigma * |w|``."""

    sigma: float

    def __post_init__(self) -> None:
        check_number(self, "sigma", 0.0)

    def coefficients(self, hardware: Hardware) -> tuple[float, float, float]:
        """Linear in the weight."""
        return (0.0, self.sigma, 0.0)


@final
@dataclass(frozen=True, kw_only=True)
class PCMNoise(WeightNoise):
    """The spread of programming the hardware's own devices (Joshi et al. 2020), times ``strength``.

    A strength above 1 stands in for what comes after programming: read noise and the spread of drift.
    """

    strength: float = 1.0

    def __post_init__(self) -> None:
        check_number(self, "strength", 0.0)

    def coefficients(self, hardware: Hardware) -> tuple[float, float, float]:
        """The device's polynomial over its window, averaged over the pairs of a cell."""
        device = hardware.cell.device
        if not isinstance(device, PCM):
            raise TypeError(
                f"PCMNoise: the cell's device is a {type(device).__name__}, which has no programming_sd; use "
                "AdditiveNoise or MultiplicativeNoise"
            )
        if len(device.programming_sd) > 3:
            c0, c1, c2 = _quadratic(device.programming_sd)
        else:
            c0, c1, c2 = (*device.programming_sd, *(0.0,) * (3 - len(device.programming_sd)))
        # A weight of 0 is at g_min, from where its size takes the rest of the range.
        start, rest = device.lowest / device.g_max, device.window / device.g_max
        c0, c1, c2 = c0 + start * (c1 + start * c2), rest * (c1 + 2.0 * start * c2), rest * rest * c2
        # Pairs with independent errors average.
        factors = torch.tensor(hardware.cell.factors[::2])
        scale = self.strength / device.window * float(factors.square().sum().sqrt())
        return (c0 * scale, c1 * scale, c2 * scale)


def _quadratic(polynomial: tuple[float, ...]) -> tuple[float, float, float]:
    """The parabola nearest to a polynomial of higher degree over [0, 1], by least squares."""
    g = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
    powers = torch.stack([g**k for k in range(3)], dim=1)
    value = sum((c * g**k for k, c in enumerate(polynomial)), start=torch.zeros_like(g))
    fit = torch.linalg.lstsq(powers, value.unsqueeze(1)).solution.flatten().tolist()
    return fit[0], fit[1], fit[2]


@final
@dataclass(frozen=True, kw_only=True)
class Distillation(Configuration):
    """Learn from the float model's outputs as well as from the labels (Hinton et al., 2015).

    The loss becomes ``(1 - weight) loss + weight T^2 KL(teacher || net)`` at temperature ``T``.
    """

    weight: float = 0.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        check_number(self, "weight", 0.0, 1.0)
        check_number(self, "temperature", 0.0, above=True)


@final
@dataclass(frozen=True, kw_only=True)
class Recipe(Configuration):
    """Hardware-aware fine-tuning.

    Args:
        noise: weight noise in training, or ``None``.
        ramp: part of the training over which the noise grows from 0 to its full strength.
        drop_connect: probability that a weight reads as zero in a step.
        clip_sigma: weights are clipped at this many standard deviations about zero (root-mean-squares); 0 for
            no clipping. Clipping narrows the
            distribution, so that programming errors, which go with the largest weight, count less.
        clip_per: ``"layer"`` or ``"channel"``: whose standard deviation.
        distillation: learning from the float model, or ``None``.

    Examples:
        >>> Recipe(noise=AdditiveNoise(sigma=0.05), ramp=0.3).clip_sigma
        2.5
    """

    noise: WeightNoise | None = PCMNoise(strength=1.0)
    ramp: float = 0.0
    drop_connect: float = 0.0
    clip_sigma: float = 2.5
    clip_per: str = "layer"
    distillation: Distillation | None = None

    def __post_init__(self) -> None:
        check_type(self, "noise", (WeightNoise, type(None)))
        check_number(self, "ramp", 0.0, 1.0)
        check_number(self, "drop_connect", 0.0, 1.0)
        check_number(self, "clip_sigma", 0.0)
        check_choice(self, "clip_per", ("layer", "channel"))
        check_type(self, "distillation", (Distillation, type(None)))

    def perturbation(self, hardware: Hardware) -> Perturbation:
        """What this recipe does to the weights of a layer on ``hardware``."""
        additive, multiplicative, quadratic = self.noise.coefficients(hardware) if self.noise else (0.0, 0.0, 0.0)
        return Perturbation(
            additive=additive,
            multiplicative=multiplicative,
            quadratic=quadratic,
            drop_connect=self.drop_connect,
            clip_sigma=self.clip_sigma,
            clip_per=self.clip_per,
        )

    def apply(self, net: nn.Module) -> None:
        """Put noise and clipping on every layer of a converted net, in place; training then sees them."""
        planned = {name: self.perturbation(layer.hardware) for name, layer in analog_layers(net).items()}
        for name, layer in analog_layers(net).items():
            layer.perturbation = planned[name]


def set_noise_level(net: nn.Module, level: float) -> None:
    """Scale the training noise of every layer, in place; 1 is the recipe's strength. A ramp calls this."""
    if not 0.0 <= level < float("inf"):
        raise ValueError(f"set_noise_level: level = {level}; it must be finite and not negative")
    for layer in analog_layers(net).values():
        layer.noise_level.fill_(level)
