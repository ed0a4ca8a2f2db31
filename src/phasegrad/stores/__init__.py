"""Weight stores: digital memory, programmed devices, devices trained in memory, or a frozen mean without noise."""

from phasegrad.stores.analog_weight import AnalogWeight
from phasegrad.stores.base import WeightStore
from phasegrad.stores.digital import Digital
from phasegrad.stores.in_memory import InMemory
from phasegrad.stores.in_memory_weight import InMemoryWeight
from phasegrad.stores.noiseless import Noiseless
from phasegrad.stores.programmed import Programmed

__all__ = ["AnalogWeight", "Digital", "InMemory", "InMemoryWeight", "Noiseless", "Programmed", "WeightStore"]


def __dir__() -> list[str]:
    return sorted(__all__)
