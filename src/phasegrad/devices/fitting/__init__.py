"""Devices from raw measurements: maximum likelihood, confidence intervals, and laws compared."""

from phasegrad.devices.fitting.fitted_device import fit
from phasegrad.devices.fitting.result import Alternative, Coefficient, Fit, Panel

__all__ = ["Alternative", "Coefficient", "Fit", "Panel", "fit"]


def __dir__() -> list[str]:
    return sorted(__all__)
