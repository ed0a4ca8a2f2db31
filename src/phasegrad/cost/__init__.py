"""What a chip costs: latency, energy and area of the hardware that gives the accuracy."""

from phasegrad.cost.accelerator import Accelerator, Comparison, DigitalPart, compare
from phasegrad.cost.activity import Activity, measure_activity
from phasegrad.cost.conductance import Conductance
from phasegrad.cost.constant import Constant
from phasegrad.cost.counting import Counts
from phasegrad.cost.estimation import estimate
from phasegrad.cost.generation import GenerationEstimate, estimate_generation
from phasegrad.cost.latency import Duration, Stages
from phasegrad.cost.limits import thermal_conversion_energy
from phasegrad.cost.operators import OperatorCost
from phasegrad.cost.peak_figures import Peak, peak
from phasegrad.cost.published import ambrogio_2023, hermes_64_core, hermes_core
from phasegrad.cost.report import DigitalEstimate, Estimate, LayerEstimate
from phasegrad.cost.technology import Technology
from phasegrad.cost.training import TrainingEstimate, TrainingPart, estimate_training
from phasegrad.cost.upkeep import Upkeep

__all__ = [
    "Accelerator",
    "Activity",
    "Comparison",
    "Conductance",
    "Constant",
    "Counts",
    "DigitalEstimate",
    "DigitalPart",
    "Duration",
    "Estimate",
    "GenerationEstimate",
    "LayerEstimate",
    "OperatorCost",
    "Peak",
    "Stages",
    "Technology",
    "TrainingEstimate",
    "TrainingPart",
    "Upkeep",
    "ambrogio_2023",
    "compare",
    "estimate",
    "estimate_generation",
    "estimate_training",
    "hermes_64_core",
    "hermes_core",
    "measure_activity",
    "peak",
    "thermal_conversion_energy",
]


def __dir__() -> list[str]:
    return sorted(__all__)
