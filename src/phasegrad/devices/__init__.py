"""What one memory device does."""

from phasegrad.devices.base import Device, DeviceState
from phasegrad.devices.laws import Curve, Law, Piecewise, Power, Table
from phasegrad.devices.pcm import PCM, hermes_one, hermes_two, ideal_device, joshi_2020

__all__ = [
    "PCM",
    "Curve",
    "Device",
    "DeviceState",
    "Law",
    "Piecewise",
    "Power",
    "Table",
    "hermes_one",
    "hermes_two",
    "ideal_device",
    "joshi_2020",
]
