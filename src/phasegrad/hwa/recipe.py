"""Recipes for training digital weights that tolerate the errors of the hardware."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from phasegrad import argument_checks as checks
from phasegrad.configuration import Configuration, check_choice, check_number, check_type
from phasegrad.crossbar import Hardware, NoiseProfile, Perturbation
from phasegrad.devices import PCM
from phasegrad.hwa.clipping import warn_clipped
from phasegrad.hwa.programming_noise import programming_profiles
from phasegrad.nn import analog_layers


@dataclass(frozen=True, kw_only=True)
class WeightNoise(Configuration, ABC):
    """Noise that training adds to the weights, drawn independently at each step."""

    @abstractmethod
    def coefficients(self, hardware: Hardware) -> tuple[float, float, float]:
        """Coefficients ``(c0, c1, c2)`` of ``sd / scale = c0 + c1 |w| / scale + c2 (|w| / scale)^2``.

        ``scale`` is that of the weight's column.
        """

    def profiles(self, hardware: Hardware) -> tuple[NoiseProfile, ...]:
        """The noise of each slice of the cell, if ``coefficients`` cannot express it; empty otherwise."""
        return ()


@final
@dataclass(frozen=True, kw_only=True)
class AdditiveNoise(WeightNoise):
    """Noise of one standard deviation for all weights of a column: ``sd = sigma * scale`` (Joshi et al. 2020).

    Args:
        sigma: standard deviation relative to the scale of the column.

    References:
        Joshi, V. et al. Accurate deep neural network inference using computational phase-change memory. Nat. Commun.
        11, 2473 (2020). https://doi.org/10.1038/s41467-020-16108-9
    """

    sigma: float

    def __post_init__(self) -> None:
        check_number(self, "sigma", 0.0)

    def coefficients(self, hardware: Hardware) -> tuple[float, float, float]:
        """Coefficients of a constant standard deviation."""
        return (self.sigma, 0.0, 0.0)


@final
@dataclass(frozen=True, kw_only=True)
class MultiplicativeNoise(WeightNoise):
    """Noise in proportion to the weight: ``sd = sigma * |w|``.

    Args:
        sigma: standard deviation relative to the weight.
    """

    sigma: float

    def __post_init__(self) -> None:
        check_number(self, "sigma", 0.0)

    def coefficients(self, hardware: Hardware) -> tuple[float, float, float]:
        """Coefficients of a standard deviation proportional to the weight."""
        return (0.0, self.sigma, 0.0)


@final
@dataclass(frozen=True, kw_only=True)
class PCMNoise(WeightNoise):
    """The programming noise of the hardware's own devices (Joshi et al. 2020), times ``strength``.

    The standard deviation of a weight is that of the programmed cell: the errors of all devices that store it add in
    quadrature, each at its own target. Devices at RESET are included, whose error is one-sided because a conductance
    cannot be below the lowest one, and so are the devices of a reference column. Noise is drawn for each weight alone:
    the error that the columns of a tile share because of their reference is not correlated in training.

    Args:
        strength: factor of the programming noise; above 1 to cover read noise and drift variability as well.

    References:
        Joshi, V. et al. Accurate deep neural network inference using computational phase-change memory. Nat. Commun.
        11, 2473 (2020). https://doi.org/10.1038/s41467-020-16108-9
    """

    strength: float = 1.0

    def __post_init__(self) -> None:
        check_number(self, "strength", 0.0)

    def coefficients(self, hardware: Hardware) -> tuple[float, float, float]:
        """Coefficients of one device's programming noise over its window, averaged over the pairs of a cell.

        They are an approximation for pairs; training applies ``profiles``, which hold for every cell.
        """
        device = hardware.cell.device
        if not isinstance(device, PCM):
            raise TypeError(
                f"PCMNoise: the device of the cell is a {type(device).__name__}, which has no programming_sd; use "
                "AdditiveNoise or MultiplicativeNoise"
            )
        if len(device.programming_sd) > 3:
            c0, c1, c2 = _quadratic(device.programming_sd)
        else:
            c0, c1, c2 = (*device.programming_sd, *(0.0,) * (3 - len(device.programming_sd)))
        # A weight of 0 is at g_min; its magnitude spans the rest of the range.
        start, rest = device.lowest / device.g_max, device.window / device.g_max
        c0, c1, c2 = c0 + start * (c1 + start * c2), rest * (c1 + 2.0 * start * c2), rest * rest * c2
        # The pairs of a cell have independent errors, which average out.
        factors = torch.tensor(hardware.cell.factors[::2])
        scale = self.strength / device.window * float(factors.square().sum().sqrt())
        return (c0 * scale, c1 * scale, c2 * scale)

    def profiles(self, hardware: Hardware) -> tuple[NoiseProfile, ...]:
        """The standard deviation of the hardware's programmed cells, slice by slice."""
        return programming_profiles(hardware.cell, self.strength)


def _quadratic(polynomial: tuple[float, ...]) -> tuple[float, float, float]:
    """Least-squares parabola of a polynomial of higher degree over [0, 1]."""
    g = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
    powers = torch.stack([g**k for k in range(3)], dim=1)
    value = sum((c * g**k for k, c in enumerate(polynomial)), start=torch.zeros_like(g))
    fit = torch.linalg.lstsq(powers, value.unsqueeze(1)).solution.flatten().tolist()
    return fit[0], fit[1], fit[2]


@final
@dataclass(frozen=True, kw_only=True)
class Distillation(Configuration):
    """Knowledge distillation: training on a teacher's outputs as well as on the labels (Hinton et al. 2015).

    The loss becomes ``(1 - weight) loss + weight T^2 KL(teacher || net)`` at temperature ``T``.

    Args:
        weight: weight of the distillation term in the loss, 0 to 1.
        temperature: temperature ``T`` of the softmax.

    References:
        Hinton, G., Vinyals, O. & Dean, J. Distilling the knowledge in a neural network (2015).
        https://arxiv.org/abs/1503.02531
    """

    weight: float = 0.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        check_number(self, "weight", 0.0, 1.0)
        check_number(self, "temperature", 0.0, above=True)


@final
@dataclass(frozen=True, kw_only=True)
class Recipe(Configuration):
    """Recipe for hardware-aware fine-tuning: noise and clipping of the weights, and distillation.

    Args:
        noise: weight noise in training, or ``None``.
        ramp: fraction of the training during which the noise grows from 0 to its full strength.
        drop_connect: probability that a weight reads as zero in a step.
        clip_sigma: clipping threshold in root mean squares of the nonzero weights (standard deviations about zero); 0
            for no clipping. Clipping narrows the distribution, which reduces the effect of programming errors, because
            they scale with the largest weight. Weights of exactly 0, such as those of a pruned net, do not count.
        clip_per: group of weights that share a threshold: ``"layer"`` or ``"channel"``.
        distillation: distillation from a teacher, or ``None``.

    References:
        Joshi, V. et al. Accurate deep neural network inference using computational phase-change memory. Nat. Commun.
        11, 2473 (2020). https://doi.org/10.1038/s41467-020-16108-9 (weight noise and clipping)

        Rasch, M. J. et al. Hardware-aware training for large-scale and diverse deep learning inference workloads using
        in-memory computing-based accelerators. Nat. Commun. 14, 5282 (2023).
        https://doi.org/10.1038/s41467-023-40770-4 (noise ramp, drop-connect, distillation)

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
        """The noise and clipping that this recipe applies to the weights of a layer on ``hardware``."""
        profiles, polynomial = (), (0.0, 0.0, 0.0)
        if self.noise is not None:
            profiles = self.noise.profiles(hardware)
            polynomial = polynomial if profiles else self.noise.coefficients(hardware)
        additive, multiplicative, quadratic = polynomial
        return Perturbation(
            additive=additive,
            multiplicative=multiplicative,
            quadratic=quadratic,
            drop_connect=self.drop_connect,
            clip_sigma=self.clip_sigma,
            clip_per=self.clip_per,
            profiles=profiles,
        )

    def apply(self, net: nn.Module) -> None:
        """Apply noise and clipping to every analog layer of a converted net, in place, for training to use.

        Warns:
            UserWarning: clipping changes more than 5 % of a layer's nonzero weights and more than twice the share of
                a normal distribution (1.2 % at 2.5 root mean squares), or more than half of them.
        """
        planned = {name: self.perturbation(layer.hardware) for name, layer in analog_layers(net).items()}
        for name, layer in analog_layers(net).items():
            layer.perturbation = planned[name]
        warn_clipped(net)


def set_noise_level(net: nn.Module, level: float) -> None:
    """Set the factor of every layer's training noise, in place; 1 is the recipe's strength.

    [`fine_tune`][phasegrad.hwa.fine_tune] calls this at each step to ramp the noise.

    Raises:
        ValueError: the level is negative or not finite.
    """
    level = checks.number("set_noise_level", "level", level, 0.0)
    for layer in analog_layers(checks.module("set_noise_level", "net", net)).values():
        layer.noise_level.fill_(level)
