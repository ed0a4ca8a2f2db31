"""How a gradient becomes pulses on the lines of a tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

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
    """Trains of pulses: an update is made where the trains of an input and an output line coincide.

    Source: Gokmen and Vlasov, Front. Neurosci. 10:333 (2016).

    Args:
        length: slots of the longest train, 1 to 31.
        adaptive: whether a train is only as long as the largest product of a sample asks for.
        managed: whether firing probabilities are balanced between inputs and outputs, so that neither saturates
            before the other.
        kind: ``"stochastic"``; ``"deterministic"``: evenly spread slots, whose coincidences are the product,
            rounded; ``"mean-count"``: the expected number of coincidences, rounded up or down at random, which no
            wires carry and which serves as a reference.
        sample_time: time that a sample takes in training [s]; the devices' clock moves by it, after each update.

    Examples:
        >>> Pulses(length=10).code
        0
    """

    length: int = 31
    adaptive: bool = True
    managed: bool = True
    kind: str = "stochastic"
    sample_time: float = 0.0

    def __post_init__(self) -> None:
        check_integer(self, "length", 1, trains.LONGEST)
        check_type(self, "adaptive", bool)
        check_type(self, "managed", bool)
        check_number(self, "sample_time", 0.0)
        check_choice(self, "kind", tuple(_KINDS))

    @property
    def code(self) -> int:
        """Number of the kind in :mod:`phasegrad.ops.trains`."""
        return _KINDS[self.kind]
