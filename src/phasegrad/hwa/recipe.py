"""Recipes for training digital weights that tolerate the errors of the hardware."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import nn

from phasegrad import argument_checks as checks
from phasegrad.configuration import Configuration, check_choice, check_number, check_type
from phasegrad.crossbar import Hardware, Perturbation
from phasegrad.crossbar.chip_age import AgeDistribution
from phasegrad.crossbar.perturbation import check_compensation
from phasegrad.hwa.clipping import warn_clipped
from phasegrad.hwa.weight_noise import (  # noqa: F401 -- pickles of earlier releases look for all of them here
    AdditiveNoise,
    MultiplicativeNoise,
    PCMNoise,
    WeightNoise,
)
from phasegrad.nn import AnalogLayer, analog_layers
from phasegrad.nn.chip_age import share_age

_PROGRAMMING_ERROR = PCMNoise(strength=1.0)


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
        age: distribution of the age of the chip, for training that is aware of drift: each step programs a chip, with
            the programming error and drift exponent of every device, reads it at an age from this distribution, with
            read noise, and adds ``noise``, unless that is the programming error itself. ``None`` for ``noise`` alone.
        compensation: the drift compensation that the chip will have, per ``"tile"``, ``"column"`` or ``"layer"``, from
            noisy calibration reads; ``None`` for none. It needs an ``age``.

    Raises:
        ValueError: a number is out of its range, ``compensation`` is given without ``age``, or ``noise`` is a
            ``PCMNoise`` of another strength than 1 with an ``age``.

    References:
        Joshi, V. et al. Accurate deep neural network inference using computational phase-change memory. Nat. Commun.
        11, 2473 (2020). https://doi.org/10.1038/s41467-020-16108-9 (weight noise and clipping)

        Rasch, M. J. et al. Hardware-aware training for large-scale and diverse deep learning inference workloads using
        in-memory computing-based accelerators. Nat. Commun. 14, 5282 (2023).
        https://doi.org/10.1038/s41467-023-40770-4 (noise ramp, drop-connect, distillation)

    Examples:
        >>> Recipe(noise=AdditiveNoise(sigma=0.05), ramp=0.3).clip_sigma
        2.5

        Five years of drift:

        >>> from phasegrad.hwa import LogUniform
        >>> Recipe(age=LogUniform(low=1.0, high=1.6e8), compensation="tile").age
        LogUniform(low=1.0, high=160000000.0)
    """

    noise: WeightNoise | None = _PROGRAMMING_ERROR
    ramp: float = 0.0
    drop_connect: float = 0.0
    clip_sigma: float = 2.5
    clip_per: str = "layer"
    distillation: Distillation | None = None
    age: AgeDistribution | None = None
    compensation: str | None = None

    def __post_init__(self) -> None:
        check_type(self, "noise", (WeightNoise, type(None)))
        check_number(self, "ramp", 0.0, 1.0)
        check_number(self, "drop_connect", 0.0, 1.0)
        check_number(self, "clip_sigma", 0.0)
        check_choice(self, "clip_per", ("layer", "channel"))
        check_type(self, "distillation", (Distillation, type(None)))
        check_compensation(self)
        _ = self._added_noise

    @property
    def _added_noise(self) -> WeightNoise | None:
        """The noise that training adds to weights or, with an age, to what is read from chips."""
        return self.noise if self.noise is None or self.age is None else self.noise.beside_devices()

    def perturbation(self, hardware: Hardware) -> Perturbation:
        """The noise and clipping that this recipe applies to the weights of a layer on ``hardware``."""
        profiles, polynomial, noise = (), (0.0, 0.0, 0.0), self._added_noise
        if noise is not None:
            profiles = noise.profiles(hardware)
            polynomial = polynomial if profiles else noise.coefficients(hardware)
        additive, multiplicative, quadratic = polynomial
        return Perturbation(
            additive=additive,
            multiplicative=multiplicative,
            quadratic=quadratic,
            drop_connect=self.drop_connect,
            clip_sigma=self.clip_sigma,
            clip_per=self.clip_per,
            profiles=profiles,
            age=self.age,
            compensation=self.compensation,
        )

    def apply(self, net: nn.Module) -> None:
        """Apply noise and clipping to every analog layer of a converted net, in place, for training to use.

        With an ``age``, all layers of the net share one chip, of an age that each call of the net in training draws.

        Raises:
            ValueError: the recipe has an ``age``, but a layer is programmed or trained in the memory, no device of the
                net drifts, or devices of some age cannot be drawn.

        Warns:
            UserWarning: clipping changes more than 5 % of a layer's nonzero weights and more than twice the share of
                a normal distribution (1.2 % at 2.5 root mean squares), or more than half of them.
        """
        layers = analog_layers(net)
        if self.age is not None:
            _check_ageing(self.age, layers)
        planned = {name: self.perturbation(layer.hardware) for name, layer in layers.items()}
        for name, layer in layers.items():
            layer.perturbation = planned[name]
        share_age(getattr(net, "_orig_mod", net))
        warn_clipped(net)


def _check_ageing(age: AgeDistribution, layers: dict[str, AnalogLayer]) -> None:
    """Raise ``ValueError`` unless layers can be read from chips of some age."""
    for name, layer in layers.items():
        if layer.store.why_not_digital is not None:
            raise ValueError(f"Recipe: age = {age}, but {name or 'the net'} {layer.store.why_not_digital}")
        _ = layer.hardware.cell.device.redrawn
    devices = [layer.hardware.cell.device for layer in layers.values()]
    if devices and not any(device.drifts for device in devices):
        raise ValueError(
            f"Recipe: age = {age}, but no device of the net drifts, so that its age changes nothing but read noise; "
            "leave age=None, and set noise instead"
        )


def set_noise_level(net: nn.Module, level: float) -> None:
    """Set the factor of every layer's training noise, in place; 1 is the recipe's strength.

    [`fine_tune`][phasegrad.hwa.fine_tune] calls this at each step to ramp the noise.

    Raises:
        ValueError: the level is negative or not finite.
    """
    level = checks.number("set_noise_level", "level", level, 0.0)
    for layer in analog_layers(checks.module("set_noise_level", "net", net)).values():
        layer.noise_level.fill_(level)
