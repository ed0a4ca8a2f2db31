"""Programming and recalibration: what keeps a chip in use besides its products."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from phasegrad.cost.conductance import Conductance
from phasegrad.cost.counting import Counts, Geometry, phases_of
from phasegrad.cost.energy import Drive, tile_energies
from phasegrad.cost.latency import Stages
from phasegrad.cost.prices import Prices
from phasegrad.nn import AnalogLayer

QUANTITIES = ("programming energy", "programming time", "recalibration energy", "recalibration time")


class Upkeep(NamedTuple):
    """Energy and time of programming or recalibrating all tiles once."""

    energy: float
    """Energy [J]."""
    time: float
    """Time [s]. Tiles work in parallel, so it is that of the slowest."""


def layer_upkeep(
    name: str,
    layer: AnalogLayer,
    place: Geometry,
    of_vector: Stages,
    known: Conductance | None,
    prices: Mapping[str, Prices],
) -> dict[str, float]:
    """What programming and recalibrating the tiles of a layer costs, by the names of ``QUANTITIES``.

    Recalibration is the calibration read of drift compensation: the rows of a tile are driven one at a time at full
    amplitude, and all its columns are converted.

    Args:
        name: name of the layer, for what is missing.
        layer: the layer.
        place: its geometry.
        of_vector: the time of a vector in its tiles.
        known: the conductance of its devices, if it is known.
        prices: the constants, by the names of ``QUANTITIES``.
    """
    technology, hardware = prices[QUANTITIES[0]].technology, layer.hardware
    cell = sum(len(cell.factors) for cell in hardware.cells)
    fullest = place.rows * (place.columns + (1 if hardware.cell.has_reference else 0)) * cell
    groups = math.ceil(fullest / technology.programmed_together)
    phases = phases_of(hardware, technology)
    reads, results = place.inputs * place.column_tiles, place.inputs * layer.out_features * place.slices
    counts = Counts(
        tile_reads=reads * phases,
        drives=reads * phases,
        conversions=0 if hardware.adc is None else results * phases,
        results=results,
    )
    drive = Drive(layer.device_count, known, 1.0, 1.0)
    energies = tile_energies(name, hardware, counts, drive, prices[QUANTITIES[2]])
    return {
        QUANTITIES[0]: prices[QUANTITIES[0]].cost(layer.device_count, name, "programming_energy"),
        QUANTITIES[1]: prices[QUANTITIES[1]].cost(groups, name, "programming_time"),
        QUANTITIES[2]: sum(energies.values()),
        QUANTITIES[3]: place.rows * (of_vector.read + of_vector.local),
    }
