"""Memory devices: how one device is programmed, pulsed, drifts and is read."""

from phasegrad.devices.base import CellSum, Device, DeviceState, ReadMoments
from phasegrad.devices.capacitor import Capacitor
from phasegrad.devices.curves import Curve, Law, Piecewise, Power, Table
from phasegrad.devices.jump_tables import JumpTable
from phasegrad.devices.liner import projected
from phasegrad.devices.moments import ConductanceMoments
from phasegrad.devices.noise import CorrelatedNoise, Telegraph
from phasegrad.devices.pcm import PCM
from phasegrad.devices.published import hermes_one, hermes_two, ideal_device, joshi_2020, nandakumar_2018_device
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
    "Capacitor",
    "CellSum",
    "ConductanceMoments",
    "ConstantSteps",
    "CorrelatedNoise",
    "Curve",
    "Device",
    "DeviceState",
    "ExponentialSteps",
    "JumpTable",
    "Law",
    "LinearSteps",
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
    "hermes_one",
    "hermes_two",
    "ideal_device",
    "joshi_2020",
    "nandakumar_2018",
    "nandakumar_2018_device",
    "projected",
    "trace",
]


def __dir__() -> list[str]:
    return sorted(__all__)
