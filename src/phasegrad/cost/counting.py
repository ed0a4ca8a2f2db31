"""What the products of a layer make its tiles do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch

from phasegrad.cost.shadow import Call
from phasegrad.cost.technology import Technology
from phasegrad.crossbar import Hardware
from phasegrad.crossbar.mapping import row_tiles
from phasegrad.nn import AnalogLayer


class Geometry(NamedTuple):
    """How the matrix of a layer lies on tiles, and how often a product uses them."""

    row_tiles: int
    """Tiles that contribute to an output."""
    column_tiles: int
    """Tiles that contribute to different outputs, of all groups."""
    inputs: int
    """Inputs of a vector, per group: word lines that it drives in all row tiles together."""
    rows: int
    """Word lines of the fullest tile that are used."""
    columns: int
    """Bit lines of the fullest tile that are used."""
    slices: int
    """Weight slices, each with converters of its own."""
    drives: int
    """How often the lines are driven one after another for a product."""
    conversions: int
    """How often a column is converted for a product of one slice and one phase."""
    input_bits: int | None
    """Bits of an input; ``None`` if no converter rounds it."""
    output_bits: int | None
    """Bits of the result of a tile; ``None`` if no converter rounds it."""


def geometry(layer: AnalogLayer) -> Geometry:
    """The geometry of a layer."""
    hardware, count = layer.hardware, row_tiles(layer.in_features, layer.hardware)
    adc, dac = hardware.adc, hardware.dac
    converted = conversions_per_product(hardware)
    return Geometry(
        row_tiles=count,
        column_tiles=layer.tiles // count,
        inputs=layer.in_features,
        rows=min(hardware.rows, layer.in_features),
        columns=min(layer.columns, layer.out_features),
        slices=len(hardware.slice_factors or (1.0,)),
        drives=1 if dac is None else max(dac.drives_per_product, converted),
        conversions=converted,
        input_bits=None if dac is None else dac.bits,
        output_bits=None if adc is None else adc.bits,
    )


def phases_of(hardware: Hardware, technology: Technology) -> int:
    """Tile reads per product and input slice; an integrator that splits polarities needs two."""
    split = hardware.integrator is not None and hardware.integrator.split
    return max(technology.phases, 2 if split else 1)


def conversions_per_product(hardware: Hardware) -> int:
    """Conversions of a column per product: one per input slice whose results are added digitally."""
    if hardware.dac is None:
        return 1
    return len(hardware.dac.input_slices(torch.zeros(1, 1), torch.ones(1), None))


class Counts(NamedTuple):
    """What calls of a layer add up to."""

    vectors: int = 0
    """Vectors that its tiles multiply."""
    multiplications: int = 0
    """Multiplications of an input by a weight."""
    products: int = 0
    """Products of a tile and a vector."""
    tile_reads: int = 0
    """Reads of a tile: one per product, input slice and phase."""
    drives: int = 0
    """Word lines driven, summed over tile reads."""
    conversions: int = 0
    """Conversions of a column."""
    results: int = 0
    """Results of converters after all phases, which the local digital unit processes."""
    additions: int = 0
    """Additions of partial sums of row tiles, and of biases."""
    bytes_in: float = 0.0
    """Bytes to tiles."""
    bytes_out: float = 0.0
    """Bytes from tiles."""

    @property
    def operations(self) -> int:
        """Two operations per multiplication: it and the addition of its result."""
        return 2 * self.multiplications

    def plus(self, other: Counts) -> Counts:
        """The sum with other counts."""
        return Counts._make(a + b for a, b in zip(self, other, strict=True))


def count(layer: AnalogLayer, calls: Iterable[Call], phases: int) -> Counts:
    """Count what calls of a layer do.

    Args:
        layer: the layer.
        calls: its calls.
        phases: reads of a tile per product and input slice.
    """
    counts, place = Counts(), geometry(layer)
    counted = _count_look_ups if layer.tiling.senses_rows else _count_products
    for call in calls:
        counts = counts.plus(counted(layer, call, place, phases))
    return counts


def _count_products(layer: AnalogLayer, call: Call, place: Geometry, phases: int) -> Counts:
    """Rows are driven, columns converted."""
    n, outputs = call.vectors, call.outputs[1] - call.outputs[0]
    used = place.column_tiles if outputs == layer.out_features else _column_tiles(call.outputs, layer.columns)
    products, results = n * place.row_tiles * used, n * outputs * place.row_tiles * place.slices * place.conversions
    driven = n * place.inputs * used
    bias = 0 if layer.bias is None else n * outputs
    return Counts(
        vectors=n,
        multiplications=n * place.inputs * outputs,
        products=products,
        tile_reads=products * place.drives * phases,
        drives=driven * place.drives * phases,
        conversions=0 if place.output_bits is None else results * phases,
        results=results,
        additions=n * outputs * (place.row_tiles - 1) + bias,
        bytes_in=driven * _bytes(place.input_bits, call),
        bytes_out=n * outputs * place.row_tiles * _bytes(place.output_bits, call),
    )


def _count_look_ups(layer: AnalogLayer, call: Call, place: Geometry, phases: int) -> Counts:
    """One column is driven, rows are converted: nothing is added, and the input is an address."""
    n, results = call.vectors, call.vectors * layer.in_features * place.slices
    products = n * place.row_tiles
    return Counts(
        vectors=n,
        multiplications=0,
        products=products,
        tile_reads=products * phases,
        drives=products * phases,
        conversions=0 if place.output_bits is None else results * phases,
        results=results,
        bytes_in=float(products * call.value_bytes),
        bytes_out=n * layer.in_features * _bytes(place.output_bits, call),
    )


def _column_tiles(outputs: tuple[int, int], columns: int) -> int:
    """Column tiles that a range of outputs lies on."""
    first, last = outputs
    return (last - 1) // columns - first // columns + 1 if last > first else 0


def _bytes(bits: int | None, call: Call) -> float:
    return float(call.value_bytes) if bits is None else bits / 8.0
