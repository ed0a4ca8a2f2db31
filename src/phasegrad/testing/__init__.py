"""Contracts of custom devices, cells and converters, as pytest classes.

A contract is a class of tests that every implementation must pass. To check a custom implementation, subclass the
contract in a pytest file, with a name that starts with ``Test``, and override the methods that describe it: how to
create it, and the laws that it must follow. Deviations are compared with standard errors of samples drawn with a fixed
seed, so that results are reproducible.

This package requires pytest. ``import phasegrad`` does not import it.

Examples:
    In ``test_my_device.py``, for a device that relaxes to 0 with a time constant of 5e6 s:

    >>> import math
    >>> from phasegrad.devices import Capacitor
    >>> from phasegrad.testing import ConverterContract, DeviceContract
    >>> class TestMyDevice(DeviceContract):
    ...     def configuration(self):
    ...         return Capacitor(g_max=20e-6, tau=5e6, rest=0.0)
    ...
    ...     def programmed(self, g):
    ...         return 20e-6 * g, 0.0  # mean and standard deviation [S]
    ...
    ...     def retained(self, g, seconds):
    ...         return math.exp(-seconds / 5e6), 0.0
    ...
    ...     def read_sd(self, g, seconds):
    ...         return 0.0

    For a converter:

    >>> from phasegrad.crossbar import RampAdc
    >>> class TestMyConverter(ConverterContract):
    ...     def configuration(self):
    ...         return RampAdc(curvature=0.5, gain_mismatch=0.01)

    Before the first import, ``pytest.register_assert_rewrite("phasegrad.testing")`` in ``conftest.py`` makes failures
    show the compared values.
"""

from phasegrad.testing.cell import CellContract
from phasegrad.testing.configuration import ConfigurationContract
from phasegrad.testing.converter import ConverterContract
from phasegrad.testing.device import DeviceContract
from phasegrad.testing.samples import BOUND, SEED, at_age

__all__ = ["BOUND", "SEED", "CellContract", "ConfigurationContract", "ConverterContract", "DeviceContract", "at_age"]


def __dir__() -> list[str]:
    return sorted(__all__)
