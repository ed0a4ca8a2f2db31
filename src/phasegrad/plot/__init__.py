"""Figures of devices, converters and reports. Requires matplotlib (``pip install phasegrad[plot]``)."""

from phasegrad.plot.accuracy import over_time
from phasegrad.plot.converters import linearity, slices
from phasegrad.plot.cost import cost_breakdown
from phasegrad.plot.designs import design_map
from phasegrad.plot.device import device_statistics
from phasegrad.plot.duration import charges
from phasegrad.plot.fits import fitted
from phasegrad.plot.liner import projection
from phasegrad.plot.noise import noise_over_time
from phasegrad.plot.populations import population
from phasegrad.plot.sensitivity import layer_costs
from phasegrad.plot.wires import wire_losses

__all__ = [
    "charges",
    "cost_breakdown",
    "design_map",
    "device_statistics",
    "fitted",
    "layer_costs",
    "linearity",
    "noise_over_time",
    "over_time",
    "population",
    "projection",
    "slices",
    "wire_losses",
]


def __dir__() -> list[str]:
    return sorted(__all__)
