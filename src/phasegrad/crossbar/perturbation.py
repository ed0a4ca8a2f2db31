"""Perturbation of digital weights in hardware-aware training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from phasegrad.configuration import Configuration, check_choice, check_number


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
