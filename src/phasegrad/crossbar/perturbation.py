"""Perturbation of digital weights in hardware-aware training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from phasegrad.configuration import Configuration, check_choice, check_number


@final
@dataclass(frozen=True, kw_only=True)
class Perturbation(Configuration):
    """Clipping in training and evaluation; noise and dropped weights in training only.

    In units of the scale ``s`` of a weight's column, with ``g = |w| / s``, the noise has the standard deviation
    ``max(additive + multiplicative g + quadratic g^2, 0)``.

    Args:
        additive: constant part.
        multiplicative: part proportional to the weight.
        quadratic: part proportional to its square (negative for PCM).
        drop_connect: probability that a weight is read as 0.
        clip_sigma: bound of the weights, in root-mean-squares of the weights; 0 for no clipping.
        clip_per: whether the root-mean-square is that of the ``"layer"`` or of each output ``"channel"``.
    """

    additive: float = 0.0
    multiplicative: float = 0.0
    quadratic: float = 0.0
    drop_connect: float = 0.0
    clip_sigma: float = 0.0
    clip_per: str = "layer"

    # Derived when the perturbation is made; class variables, since they are no fields.
    noise: ClassVar[tuple[float, float, float]]
    """Coefficients of powers of ``g`` in the standard deviation, lowest power first."""
    perturbs: ClassVar[bool]
    """Whether the weights in training differ from those in evaluation."""

    def __post_init__(self) -> None:
        check_number(self, "additive", 0.0)
        check_number(self, "multiplicative", 0.0)
        check_number(self, "quadratic", -1e6)
        check_number(self, "drop_connect", 0.0, 1.0)
        check_number(self, "clip_sigma", 0.0)
        check_choice(self, "clip_per", ("layer", "channel"))
        noise = (self.additive, self.multiplicative, self.quadratic)
        object.__setattr__(self, "noise", noise)
        object.__setattr__(self, "perturbs", any(noise) or self.drop_connect > 0)
