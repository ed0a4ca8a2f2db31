"""Pictures of devices and reports. Needs matplotlib (``pip install phasegrad[plot]``), imported when one is drawn."""

from phasegrad.inference.figure import draw_over_time as over_time
from phasegrad.plot.device import device_statistics
from phasegrad.plot.wires import wire_losses

__all__ = ["device_statistics", "over_time", "wire_losses"]
