"""Memory devices: how one device is programmed, pulsed, drifts and is read."""

from phasegrad.devices.amplitude import AmplitudeResponse
from phasegrad.devices.base import CellSum, Device, DeviceState, ReadMoments
from phasegrad.devices.capacitor import Capacitor
from phasegrad.devices.curves import Curve, Law, Piecewise, Power, Table
from phasegrad.devices.faults import FaultMap, Faults
from phasegrad.devices.fitting import Alternative, Coefficient, Fit, Panel, fit
from phasegrad.devices.jump_tables import JumpTable
from phasegrad.devices.liner import projected
from phasegrad.devices.moments import ConductanceMoments
from phasegrad.devices.noise import CorrelatedNoise, Telegraph
from phasegrad.devices.partial_set import PartialSet, nandakumar_2018_partial_set
from phasegrad.devices.pcm import PCM
from phasegrad.devices.published import (
    hermes_one,
    hermes_two,
    ideal_device,
    joshi_2020,
    melt_and_quench,
    nandakumar_2018_device,
)
from phasegrad.devices.scaling import scaled
from phasegrad.devices.steps import (
    ConstantSteps,
    ExponentialSteps,
    LinearSteps,
    PiecewiseSteps,
    PowerSteps,
    SetPulses,
    SoftBoundsSteps,
    Steps,
    nandakumar_2018,
)
from phasegrad.devices.thermal import Thermal
from phasegrad.devices.tracing import trace

__all__ = [
    "PCM",
    "Alternative",
    "AmplitudeResponse",
    "Capacitor",
    "CellSum",
    "Coefficient",
    "ConductanceMoments",
    "ConstantSteps",
    "CorrelatedNoise",
    "Curve",
    "Device",
    "DeviceState",
    "ExponentialSteps",
    "FaultMap",
    "Faults",
    "Fit",
    "JumpTable",
    "Law",
    "LinearSteps",
    "Panel",
    "PartialSet",
    "Piecewise",
    "PiecewiseSteps",
    "Power",
    "PowerSteps",
    "ReadMoments",
    "SetPulses",
    "SoftBoundsSteps",
    "Steps",
    "Table",
    "Telegraph",
    "Thermal",
    "fit",
    "hermes_one",
    "hermes_two",
    "ideal_device",
    "joshi_2020",
    "melt_and_quench",
    "nandakumar_2018",
    "nandakumar_2018_device",
    "nandakumar_2018_partial_set",
    "projected",
    "scaled",
    "trace",
]


def __dir__() -> list[str]:
    return sorted(__all__)
