"""Training in the memory: pulses instead of additions."""

from phasegrad.optim.analog_sgd import AnalogSGD
from phasegrad.optim.mixed_precision import MixedPrecision

__all__ = ["AnalogSGD", "MixedPrecision"]
