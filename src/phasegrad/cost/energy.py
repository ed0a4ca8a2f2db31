"""Energy of the parts of tiles."""

from __future__ import annotations

from typing import NamedTuple

from phasegrad.cost.conductance import Conductance
from phasegrad.cost.counting import Counts
from phasegrad.cost.limits import thermal_conversion_energy
from phasegrad.cost.prices import Prices
from phasegrad.cost.technology import Technology
from phasegrad.crossbar import Hardware

COMPONENTS: tuple[str, ...] = ("array", "drivers", "adc", "tile", "local", "links", "digital", "static")
"""The components of energy, area and latency."""


class Drive(NamedTuple):
    """The currents of an array."""

    devices: int
    """Devices of the layer, whose mean conductance counts where their values are not known."""
    conductance: Conductance | None
    """Their conductance; ``None`` if their values are not known."""
    activity: float | None
    """Mean drive of a word line, in [0, 1]."""
    reads: float
    """Vectors times input slices; a fraction for a layer that uses a part of its devices at a time."""


def adc_factor(hardware: Hardware, prices: Prices, user: str) -> float:
    """What a conversion costs in relation to one at the resolution of the technology."""
    technology, adc = prices.technology, hardware.adc
    if adc is None or technology.adc_bits is None or adc.bits == technology.adc_bits:
        return 1.0
    if technology.adc_scaling is None:
        return prices.lacks("adc_scaling", f"{user}, whose converters have {adc.bits} bits")
    more = adc.bits - technology.adc_bits
    return {"bits": adc.bits / technology.adc_bits, "codes": 2.0**more, "thermal": 4.0**more}[technology.adc_scaling]


def tile_energies(name: str, hardware: Hardware, counts: Counts, drive: Drive, prices: Prices) -> dict[str, float]:
    """The energy [J] of each component for the products of a layer.

    Args:
        name: name of the layer, for what is missing and for errors.
        hardware: its hardware.
        counts: what its tiles do.
        drive: the currents of its arrays.
        prices: the constants.

    Raises:
        ValueError: a conversion would need less energy than thermal noise allows.
    """
    known = prices.technology.constant("adc_energy")
    free = counts.conversions == 0 or (known is not None and known.value == 0)
    factor = 1.0 if free else adc_factor(hardware, prices, name)
    conversion = prices.cost(factor, name, "adc_energy") if counts.conversions else 0.0
    _check_conversion(name, hardware, conversion, prices.technology)
    return {
        "array": _array_energy(name, drive, prices),
        "drivers": prices.cost(counts.drives, name, "driver_energy"),
        "adc": counts.conversions * conversion,
        "tile": prices.cost(counts.tile_reads, name, "tile_energy"),
        "local": prices.cost(counts.results, name, "local_energy"),
        "links": prices.cost(counts.bytes_in + counts.bytes_out, name, "link_energy"),
        "digital": prices.cost(counts.additions, name, "digital_energy"),
    }


def _array_energy(name: str, drive: Drive, prices: Prices) -> float:
    """``V V_supply t sum(G)`` times the mean drive of a word line, for each vector and input slice.

    Phases that split polarities do not count: each pair of an input and a device conducts in one of them.
    """
    supply = "read_voltage" if prices.technology.constant("supply_voltage") is None else "supply_voltage"
    names = ("read_voltage", supply, "read_time")
    if drive.conductance is not None:
        full = prices.cost(drive.reads * drive.conductance.total, name, *names)
    else:
        full = prices.cost(drive.reads * drive.devices, name, *names, "mean_conductance")
    if full == 0:
        return 0.0
    return prices.lacks("activity", f"the array of {name}") if drive.activity is None else full * drive.activity


def _check_conversion(name: str, hardware: Hardware, energy: float, technology: Technology) -> None:
    if hardware.adc is None or not energy > 0:
        return
    limit = thermal_conversion_energy(hardware.adc.bits, technology.temperature)
    if energy < limit:
        raise ValueError(
            f"estimate: a conversion of {hardware.adc.bits} bits in {name} would take {energy:.2g} J; thermal noise at "
            f"{technology.temperature:g} K limits it to at least {limit:.2g} J: check adc_energy, adc_bits and "
            "adc_scaling of the Technology"
        )
