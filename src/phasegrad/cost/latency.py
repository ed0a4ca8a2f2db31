"""Time that products take, vector by vector and stage by stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from phasegrad.cost.counting import Geometry, phases_of
from phasegrad.cost.energy import adc_factor
from phasegrad.cost.operators import OperatorCost
from phasegrad.cost.prices import Prices
from phasegrad.cost.shadow import Call
from phasegrad.crossbar import Hardware


class Stages(NamedTuple):
    """The time that a vector spends in each stage of a tile [s]. All tiles of a layer work at the same time."""

    read: float
    """Setup, tile reads and conversions."""
    local: float
    """The local digital unit, with the chain of partial sums if it adds them."""
    links: float
    """To the tile and from it."""

    @property
    def latency(self) -> float:
        """Time from the input of a vector to its result [s]."""
        return self.read + self.local + self.links

    @property
    def interval(self) -> float:
        """Time from one vector to the next if stages overlap [s]."""
        return max(self) if not any(map(math.isnan, self)) else math.nan


def stages(name: str, hardware: Hardware, place: Geometry, value_bytes: int, prices: Prices) -> Stages:
    """The time of a vector in the stages of the fullest tile of a layer.

    Args:
        name: name of the layer, for what is missing.
        hardware: its hardware.
        place: its geometry.
        value_bytes: bytes of a value that no converter rounds.
        prices: the constants.
    """
    technology = prices.technology
    read = read_time(name, hardware, place.drives, place.conversions, prices)
    cycles = math.ceil(place.columns * place.slices * place.conversions / technology.local_lanes)
    local = prices.cost(cycles, name, "local_cycle") + prices.cost(1, name, "local_latency")
    if technology.partial_sums == "local":
        local += prices.cost(place.row_tiles - 1, name, "hop_time")
    widths = [value_bytes if bits is None else bits / 8 for bits in (place.input_bits, place.output_bits)]
    moved = place.rows * widths[0] + place.columns * widths[1]
    links = prices.cost(1, name, "link_latency") + prices.cost(moved, name, "link_time")
    return Stages(read, local, links)


def read_time(name: str, hardware: Hardware, drives: int, conversions: int, prices: Prices) -> float:
    """The time of a product in a tile [s].

    Args:
        name: name of the layer, for what is missing.
        hardware: its hardware.
        drives: how often the lines are driven one after another.
        conversions: how often a column is converted per phase.
        prices: the constants.
    """
    phases = phases_of(hardware, prices.technology)
    shared = 0 if hardware.adc is None else hardware.adc.columns_per_converter
    time = prices.cost(1, name, "setup_time") + prices.cost(drives * phases, name, "read_time")
    return time + _conversion_time(name, hardware, shared * conversions * phases, prices)


def _conversion_time(name: str, hardware: Hardware, conversions: int, prices: Prices) -> float:
    known = prices.technology.constant("adc_time")
    if conversions == 0 or (known is not None and known.value == 0):
        return prices.cost(conversions, name, "adc_time")
    return prices.cost(conversions * adc_factor(hardware, prices, name), name, "adc_time")


class Duration(NamedTuple):
    """The time that calls of a layer take [s]."""

    serial: float
    """One vector after another."""
    overlapped: float
    """Stages of successive vectors of a call overlap; successive calls do not."""
    occupied: float
    """Time for which the tiles are occupied, if the calls of other samples fill the gaps between calls."""


def duration(calls: Sequence[Call], of_vector: Stages, replicas: int) -> Duration:
    """The time of calls of a layer whose tiles exist ``replicas`` times, each of which takes a share of the vectors."""
    shares = [-(-call.vectors // replicas) for call in calls if call.vectors]
    latency, interval = of_vector.latency, of_vector.interval
    return Duration(
        serial=sum(n * latency for n in shares),
        overlapped=sum(latency + (n - 1) * interval for n in shares),
        occupied=sum(n * interval for n in shares),
    )


def operator_time(operator: OperatorCost, prices: Prices) -> float:
    """The time of an operator in the global digital unit [s], which computes while it reads and writes."""
    compute = prices.cost(operator.operations, operator.name, "digital_time")
    memory = prices.cost(operator.bytes, operator.name, "memory_time")
    return math.nan if math.isnan(compute + memory) else max(compute, memory)
