"""Technologies with round numbers, and nets, for tests of costs."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

import phasegrad as pg
from phasegrad.cost import Activity, Constant, Technology

CONSTANTS: dict[str, float] = {
    "read_time": 100e-9,
    "setup_time": 10e-9,
    "read_voltage": 0.2,
    "driver_energy": 1e-14,
    "adc_energy": 1e-12,
    "adc_time": 20e-9,
    "tile_energy": 1e-10,
    "local_energy": 1e-13,
    "local_cycle": 1e-9,
    "local_latency": 5e-9,
    "link_energy": 1e-12,
    "link_time": 1e-10,
    "link_latency": 3e-9,
    "digital_energy": 1e-13,
    "digital_time": 1e-12,
    "memory_energy": 1e-12,
    "memory_time": 1e-12,
    "tile_power": 1e-3,
    "chip_power": 1e-2,
    "device_area": 1e-14,
    "driver_area": 1e-12,
    "adc_area": 1e-10,
    "local_area": 1e-9,
    "link_area": 2e-9,
    "tile_area": 3e-9,
    "digital_area": 1e-7,
    "programming_energy": 1e-9,
    "programming_time": 1e-6,
    "line_pulse_energy": 1e-14,
    "pulse_energy": 1e-12,
    "pulse_time": 1e-9,
    "mean_conductance": 5e-6,
}


def technology(**changes: Any) -> Technology:
    """A technology that knows everything, with some of its fields changed."""
    return Technology(**{"adc_bits": 8, **CONSTANTS, **changes})


def small(**fields: Any) -> pg.Hardware:
    """The standard tile at 64 x 32, with some of its fields changed."""
    standard = pg.presets.pcm_inference()
    values = {"cell": standard.cell, "rows": 64, "columns": 32, "dac": standard.dac, "adc": standard.adc, **fields}
    return pg.Hardware(**values)


def converted(model: nn.Module, **fields: Any) -> nn.Module:
    """A net on small tiles."""
    return pg.convert(model, small(**fields))


def traced(net: nn.Module, example_input: Any, **options: Any) -> Any:
    """Counts of the only layer of a net."""
    return pg.cost.estimate(net, example_input, **options).layers[0].counts


class Branch(nn.Module):
    """A module that chooses what to compute by the values of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum() > 0 else x


def known(value: float) -> Constant:
    """A published constant."""
    return Constant(value=value, source="a paper", origin="published")


def drive(mean: float, names: tuple[str, ...] = ("0",)) -> Activity:
    """The same drive of all layers in every coding."""
    means = dict.fromkeys(names, mean)
    return Activity(means, means, means, "a test")
