"""Area of the tiles of a layer."""

from __future__ import annotations

from phasegrad.cost.prices import Prices
from phasegrad.crossbar import Hardware


def tile_areas(name: str, hardware: Hardware, tiles: int, slices: int, prices: Prices) -> dict[str, float]:
    """The area [m^2] of each component of whole tiles, used or not.

    Args:
        name: name of the layer, for what is missing.
        hardware: its hardware.
        tiles: number of tiles.
        slices: weight slices, each with converters of its own.
        prices: the constants.
    """
    columns = hardware.columns + (1 if hardware.cell.has_reference else 0)
    devices = tiles * hardware.rows * columns * sum(len(cell.factors) for cell in hardware.cells)
    return {
        "array": prices.cost(devices, name, "device_area"),
        "drivers": prices.cost(tiles * hardware.rows, name, "driver_area"),
        "adc": prices.cost(tiles * converters(hardware, slices), name, "adc_area"),
        "tile": prices.cost(tiles, name, "tile_area"),
        "local": prices.cost(tiles, name, "local_area"),
        "links": prices.cost(tiles, name, "link_area"),
    }


def converters(hardware: Hardware, slices: int) -> int:
    """Output converters of a tile."""
    return 0 if hardware.adc is None else slices * -(-hardware.columns // hardware.adc.columns_per_converter)
