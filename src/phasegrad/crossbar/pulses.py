"""Pulse trains, which apply a gradient on the word lines and bit lines of a tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from phasegrad.configuration import Configuration, check_choice, check_integer, check_number, check_type
from phasegrad.ops import trains

_KINDS = {
    "stochastic": trains.STOCHASTIC,
    "deterministic": trains.DETERMINISTIC,
    "mean-count": trains.MEAN_COUNT,
}


@final
@dataclass(frozen=True, kw_only=True)
class Pulses(Configuration):
    """Pulse trains: a device is pulsed when the trains on its word line and its bit line coincide.

    Args:
        length: number of slots of the longest train, 1 to 31.
        bl_management: whether the length of a train is adapted to the largest product of a sample.
        update_management: whether firing probabilities are balanced between inputs and outputs, so that both saturate
            at the same time.
        kind: ``"stochastic"``; ``"deterministic"``: equidistant slots, whose coincidences equal the rounded product;
            ``"mean-count"``: the expected number of coincidences, rounded up or down at random, a reference without a
            realisation in hardware.
        sample_time: time per sample in training [s], by which the devices' clock advances after each update.

    References:
        Gokmen, T. & Vlasov, Y. Acceleration of deep neural network training with resistive cross-point devices: design
        considerations. Front. Neurosci. 10, 333 (2016). https://doi.org/10.3389/fnins.2016.00333

    Examples:
        >>> Pulses(length=10).code
        0
    """

    length: int = 31
    bl_management: bool = True
    update_management: bool = True
    kind: str = "stochastic"
    sample_time: float = 0.0

    _renamed: ClassVar[dict[str, str]] = {"adaptive": "bl_management", "managed": "update_management"}

    def __post_init__(self) -> None:
        check_integer(self, "length", 1, trains.LONGEST)
        check_type(self, "bl_management", bool)
        check_type(self, "update_management", bool)
        check_number(self, "sample_time", 0.0)
        check_choice(self, "kind", tuple(_KINDS))

    @property
    def code(self) -> int:
        """Constant of the kind in ``phasegrad.ops.trains``."""
        return _KINDS[self.kind]
