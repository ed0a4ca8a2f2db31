"""What a chip costs: latency, energy and area of the hardware that gives the accuracy."""

from phasegrad.cost.activity import Activity, measure_activity
from phasegrad.cost.conductance import Conductance
from phasegrad.cost.constant import Constant
from phasegrad.cost.counting import Counts
from phasegrad.cost.estimate import estimate
from phasegrad.cost.latency import Duration, Stages
from phasegrad.cost.limits import thermal_conversion_energy
from phasegrad.cost.operators import OperatorCost
from phasegrad.cost.peak import Peak, peak
from phasegrad.cost.published import ambrogio_2023, hermes_64_core, hermes_core
from phasegrad.cost.report import DigitalEstimate, Estimate, LayerEstimate
from phasegrad.cost.technology import Technology
from phasegrad.cost.upkeep import Upkeep

__all__ = [
    "Activity",
    "Conductance",
    "Constant",
    "Counts",
    "DigitalEstimate",
    "Duration",
    "Estimate",
    "LayerEstimate",
    "OperatorCost",
    "Peak",
    "Stages",
    "Technology",
    "Upkeep",
    "ambrogio_2023",
    "estimate",
    "hermes_64_core",
    "hermes_core",
    "measure_activity",
    "peak",
    "thermal_conversion_energy",
]


def __dir__() -> list[str]:
    return sorted(__all__)
