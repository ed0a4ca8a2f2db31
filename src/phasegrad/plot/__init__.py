"""Pictures of devices and reports. Needs matplotlib (``pip install phasegrad[plot]``), imported when one is drawn."""

from phasegrad.inference.figure import draw_over_time as over_time
from phasegrad.plot.device import device_statistics
from phasegrad.plot.noise import noise_over_time
from phasegrad.plot.projection import projection

__all__ = ["device_statistics", "noise_over_time", "over_time", "projection"]
