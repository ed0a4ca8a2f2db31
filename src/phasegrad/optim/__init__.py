"""Training in the memory: pulses instead of additions."""

from phasegrad.optim.analog_sgd import AnalogSGD

__all__ = ["AnalogSGD"]
