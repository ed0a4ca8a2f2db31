"""What one memory device does."""

from phasegrad.devices.base import Device, DeviceState
from phasegrad.devices.capacitor import Capacitor
from phasegrad.devices.jump_tables import JumpTable
from phasegrad.devices.laws import Curve, Law, Piecewise, Power, Table
from phasegrad.devices.pcm import PCM, hermes_one, hermes_two, ideal_device, joshi_2020, nandakumar_2018_device
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

__all__ = [
    "PCM",
    "Capacitor",
    "ConstantSteps",
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
    "SetPulses",
    "SoftBoundsSteps",
    "Steps",
    "Table",
    "hermes_one",
    "hermes_two",
    "ideal_device",
    "joshi_2020",
    "nandakumar_2018",
    "nandakumar_2018_device",
]
