"""What a chip costs: latency, energy and area of the hardware that gives the accuracy."""

from phasegrad.cost.constant import Constant
from phasegrad.cost.limits import thermal_conversion_energy
from phasegrad.cost.technology import Technology

__all__ = ["Constant", "Technology", "thermal_conversion_energy"]


def __dir__() -> list[str]:
    return sorted(__all__)
