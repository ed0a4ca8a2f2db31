"""Perturbation of digital weights in hardware-aware training."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from phasegrad.configuration import Configuration, check_choice, check_number, check_type
from phasegrad.crossbar.chip_age import AgeDistribution

MOST_PARABOLAS = 64
_NO_NOISE = (0.0, 0.0, 0.0)


@final
@dataclass(frozen=True, kw_only=True)
class NoiseProfile(Configuration):
    """Standard deviation of a weight over its scale ``s``: a parabola of ``g`` for each of several intervals of ``g``.

    Args:
        parabolas: ``(c0, c1, c2)`` of ``c0 + c1 g + c2 g^2`` for each interval, 1 to 64 of them; a negative standard
            deviation counts as 0.
        starts: start of each interval but the first, increasing.
        by_sign: whether ``g = w / s``, for cells whose noise depends on the sign of the weight, or ``g = |w| / s``.

    Raises:
        ValueError: the numbers are not finite, the starts do not increase, or there is not one fewer than parabolas.
    """

    parabolas: tuple[tuple[float, float, float], ...]
    starts: tuple[float, ...] = ()
    by_sign: bool = False

    def __post_init__(self) -> None:
        count = len(self.parabolas)
        if not 1 <= count <= MOST_PARABOLAS or len(self.starts) != count - 1:
            raise ValueError(
                f"NoiseProfile: {count} parabolas and {len(self.starts)} starts; give 1 to {MOST_PARABOLAS} parabolas, "
                "and the start of each but the first"
            )
        numbers = (*self.starts, *itertools.chain.from_iterable(self.parabolas))
        if any(len(p) != 3 for p in self.parabolas) or not all(math.isfinite(c) for c in numbers):
            raise ValueError(
                f"NoiseProfile: parabolas = {self.parabolas}, starts = {self.starts}; give three finite "
                "coefficients for each parabola, and finite starts"
            )
        if any(b <= a for a, b in itertools.pairwise(self.starts)):
            raise ValueError(f"NoiseProfile: starts = {self.starts}; they must increase")

    def __call__(self, weight: Tensor) -> Tensor:
        """The standard deviations of weights over their scale, in [-1, 1]; the same shape and dtype."""
        g, table = weight if self.by_sign else weight.abs(), weight.new_tensor(self.parabolas)
        c0, c1, c2 = table[torch.bucketize(g, g.new_tensor(self.starts), right=True)].unbind(-1)
        return (c0 + c1 * g + c2 * g * g).clamp(min=0.0)

    def encode(self) -> tuple[float, ...]:
        """The profile as the flat list of numbers that the ops read; empty without noise."""
        coefficients = tuple(itertools.chain.from_iterable(self.parabolas))
        return (float(self.by_sign), *self.starts, *coefficients) if any(coefficients) else ()


@final
@dataclass(frozen=True, kw_only=True)
class Perturbation(Configuration):
    """Clipping in training and evaluation; noise and dropped weights in training only.

    The standard deviation of the noise is ``s max(additive + multiplicative g + quadratic g^2, 0)``, where ``s`` is the
    scale of the weight's column and ``g = |w| / s``.

    Args:
        additive: constant part.
        multiplicative: part proportional to ``g``.
        quadratic: part proportional to ``g^2`` (negative for PCM).
        drop_connect: probability that a weight is read as 0.
        clip_sigma: bound of the weights, in units of the root mean square of those that are not 0; 0 for no clipping.
        clip_per: whether the root mean square is computed per ``"layer"`` or per output ``"channel"``.
        profiles: noise that depends on the weight as a polynomial cannot: one profile for each slice of the cell, or
            one for all slices. It takes the place of the polynomial, which must then be 0.
        age: distribution of the age of the chip that training reads the weights from, with the programming error, drift
            and read noise of its devices, to which the noise above is added; ``None`` for weights without devices.
        compensation: columns that share a drift compensation, ``"tile"``, ``"column"`` or ``"layer"``; ``None`` for no
            compensation. It needs an ``age``.
    """

    additive: float = 0.0
    multiplicative: float = 0.0
    quadratic: float = 0.0
    drop_connect: float = 0.0
    clip_sigma: float = 0.0
    clip_per: str = "layer"
    profiles: tuple[NoiseProfile, ...] = ()
    age: AgeDistribution | None = None
    compensation: str | None = None

    # Derived when the perturbation is made; class variables, since they are no fields.
    noise: ClassVar[tuple[float, float, float]]
    """Coefficients of powers of ``g`` in the standard deviation, lowest power first."""
    slice_noise: ClassVar[tuple[tuple[float, ...], ...]]
    """The noise of each slice, or of all slices, as ``phasegrad.ops.reference.noisy_weights`` describes it."""
    perturbs: ClassVar[bool]
    """Whether training adds noise to the weights, or drops some."""

    def __post_init__(self) -> None:
        check_number(self, "additive", 0.0)
        check_number(self, "multiplicative", 0.0)
        check_number(self, "quadratic", -1e6)
        check_number(self, "drop_connect", 0.0, 1.0)
        check_number(self, "clip_sigma", 0.0)
        check_choice(self, "clip_per", ("layer", "channel"))
        polynomial = (self.additive, self.multiplicative, self.quadratic)
        if not isinstance(self.profiles, tuple) or not all(isinstance(p, NoiseProfile) for p in self.profiles):
            raise TypeError(f"Perturbation: profiles = {self.profiles!r}; it must be a tuple of NoiseProfile")
        if self.profiles and any(polynomial):
            raise ValueError(
                f"Perturbation: profiles with additive = {self.additive}, multiplicative = {self.multiplicative}, "
                f"quadratic = {self.quadratic}; give one of the two"
            )
        check_compensation(self)
        by_slice = tuple(p.encode() or _NO_NOISE for p in self.profiles) or (polynomial,)
        object.__setattr__(self, "noise", polynomial)
        object.__setattr__(self, "slice_noise", by_slice)
        object.__setattr__(self, "perturbs", any(any(noise) for noise in by_slice) or self.drop_connect > 0)


def check_compensation(owner: Configuration) -> None:
    """Raise unless the fields ``age`` and ``compensation`` of a configuration belong together."""
    check_type(owner, "age", (AgeDistribution, type(None)))  # type: ignore[type-abstract]
    compensation = vars(owner)["compensation"]
    if compensation is None:
        return
    check_choice(owner, "compensation", ("tile", "column", "layer"))
    if vars(owner)["age"] is None:
        raise ValueError(
            f"{type(owner).__name__}: compensation = {compensation!r} with age = None; there is no drift to "
            "compensate: give an age, such as LogUniform(low=1.0, high=1.6e8), or compensation=None"
        )
