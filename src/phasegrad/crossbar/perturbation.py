"""What is done to digital weights while a network learns to live on the hardware."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from phasegrad.configuration import Configuration, check_choice, check_number


@final
@dataclass(frozen=True, kw_only=True)
class Perturbation(Configuration):
    """Clipping, always; noise and dropped weights, in training.

    In units of the scale ``s`` of a weight's column, with ``g = |w| / s``, the noise has the standard deviation
    ``additive + multiplicative g + quadratic g^2``, not below 0.

    Args:
        additive: constant part.
        multiplicative: part that grows with the weight.
        quadratic: part that grows with its square (negative for PCM).
        drop_connect: probability that a weight reads as zero.
        clip_sigma: weights are clipped at this many standard deviations about zero (root-mean-squares); 0 for
            no clipping.
        clip_per: ``"layer"`` or ``"channel"``: whose standard deviation.
    """

    additive: float = 0.0
    multiplicative: float = 0.0
    quadratic: float = 0.0
    drop_connect: float = 0.0
    clip_sigma: float = 0.0
    clip_per: str = "layer"

    def __post_init__(self) -> None:
        check_number(self, "additive", 0.0)
        check_number(self, "multiplicative", 0.0)
        check_number(self, "quadratic", -1e6)
        check_number(self, "drop_connect", 0.0, 1.0)
        check_number(self, "clip_sigma", 0.0)
        check_choice(self, "clip_per", ("layer", "channel"))

    @property
    def noise(self) -> tuple[float, float, float]:
        """Coefficients of the standard deviation, powers of ``g`` from 0."""
        return (self.additive, self.multiplicative, self.quadratic)

    @property
    def perturbs(self) -> bool:
        """Whether training sees other weights than evaluation."""
        return any(self.noise) or self.drop_connect > 0
