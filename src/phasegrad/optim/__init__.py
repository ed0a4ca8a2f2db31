"""Optimizers for in-memory training: they send pulses to devices and update digital parameters with SGD."""

from phasegrad.optim.analog_sgd import AnalogSGD
from phasegrad.optim.mixed_precision import MixedPrecision
from phasegrad.optim.tiki_taka import AGAD, ChoppedTikiTakaV2, TikiTaka, TikiTakaV2

__all__ = ["AGAD", "AnalogSGD", "ChoppedTikiTakaV2", "MixedPrecision", "TikiTaka", "TikiTakaV2"]


def __dir__() -> list[str]:
    return sorted(__all__)
