"""Figures of fully used tiles, as chips are advertised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from phasegrad import argument_checks as checks
from phasegrad.cost.area import tile_areas
from phasegrad.cost.conductance import Conductance
from phasegrad.cost.counting import Counts, conversions_per_product, phases_of
from phasegrad.cost.energy import Drive, tile_energies
from phasegrad.cost.latency import read_time
from phasegrad.cost.prices import Prices
from phasegrad.cost.technology import Technology
from phasegrad.crossbar import Hardware


@dataclass(frozen=True)
class Peak:
    """The cost of one product of a fully used tile; the result of [`peak`][phasegrad.cost.peak].

    Attributes:
        operations: operations of a product; a multiplication and its addition are two.
        latency: time of a product [s].
        energies: energy of each component [J].
        areas: area of each component [m^2].
    """

    operations: int
    latency: float
    energies: Mapping[str, float]
    areas: Mapping[str, float]
    _area_prices: Prices = field(repr=False)

    @property
    def energy(self) -> float:
        """Energy of a product [J]."""
        return sum(self.energies.values())

    @property
    def area(self) -> float:
        """Area of a tile [m^2].

        Raises:
            ValueError: a constant is missing.
        """
        self._area_prices.require()
        return sum(self.areas.values())

    @property
    def tops(self) -> float:
        """Operations per second, in 10^12."""
        return self.operations / self.latency / 1e12

    @property
    def tops_per_watt(self) -> float:
        """Operations per joule, in 10^12."""
        return self.operations / self.energy / 1e12

    @property
    def tops_per_mm2(self) -> float:
        """Operations per second and square millimetre of a tile, in 10^12."""
        return self.tops / (self.area * 1e6)

    def __str__(self) -> str:
        return f"{self.tops:.4g} TOPS, {self.tops_per_watt:.4g} TOPS/W in a product of a fully used tile"


def peak(
    hardware: Hardware, technology: Technology, *, activity: float = 0.5, conductance: float | None = None
) -> Peak:
    """The figures of a fully used tile whose products follow each other, without the digital units and links.

    They are what chips are advertised with, and no more than a bound for a network.

    Args:
        hardware: the tile.
        technology: the constants.
        activity: mean drive of a word line, in [0, 1].
        conductance: mean over all devices [S]; ``None`` for ``mean_conductance`` of the technology.

    Raises:
        ValueError: a constant is missing that energy or latency needs; the area is asked for when it is read.
    """
    checks.instance("peak", "hardware", hardware, Hardware)
    checks.instance("peak", "technology", technology, Technology)
    activity = checks.number("peak", "activity", activity, 0.0, 1.0)
    rows, columns, name = hardware.rows, hardware.columns, "a tile"
    slices, converted = len(hardware.slice_factors or (1.0,)), conversions_per_product(hardware)
    drives = 1 if hardware.dac is None else max(hardware.dac.drives_per_product, converted)
    phases = phases_of(hardware, technology)
    reads = drives * phases
    counts = Counts(
        tile_reads=reads,
        drives=rows * reads,
        conversions=0 if hardware.adc is None else columns * slices * converted * phases,
    )
    devices = rows * columns * sum(len(cell.factors) for cell in hardware.cells)
    known = None
    if conductance is not None:
        mean = checks.number("peak", "conductance", conductance, 0.0, 1.0, unit="S")
        known = Conductance(mean * devices, "given")
    energy, latency, area = (Prices(technology, quantity) for quantity in ("energy", "latency", "area"))
    energies = tile_energies(name, hardware, counts, Drive(devices, known, activity, drives), energy)
    time = read_time(name, hardware, drives, converted, latency)
    areas = tile_areas(name, hardware, 1, slices, area)
    energy.require()
    latency.require()
    return Peak(2 * rows * columns, time, energies, areas, area)
