"""Estimates as rows, breakdowns, totals and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phasegrad.cost.report import Estimate, LayerEstimate


def rows(estimate: Estimate) -> list[dict[str, Any]]:
    """One dictionary per layer and per digital operator, and one for the rest of the chip; they sum to the totals."""
    found: list[dict[str, Any]] = []
    for layer in estimate.layers:
        static = static_energy(estimate, layer)
        found.append(
            {
                "layer": layer.name or "(root)",
                "kind": layer.kind,
                "out_features": layer.out_features,
                "in_features": layer.in_features,
                "tiles": layer.tiles,
                "replicas": layer.replicas,
                "devices": layer.devices,
                "utilisation": layer.utilisation,
                **{name: getattr(layer.counts, name) for name in (*layer.counts._fields, "operations")},
                "latency_s": latency(estimate, layer),
                "energy_J": layer.energy + static,
                **{f"energy_{name}_J": energy for name, energy in layer.energies.items()},
                "energy_static_J": static,
                "area_m2": layer.area,
            }
        )
    for part in estimate.digital:
        found.append(
            {
                "layer": part.operator.name,
                "kind": "digital",
                "operations": part.operator.operations,
                "bytes": part.operator.bytes,
                "latency_s": part.time,
                "energy_J": part.energy,
                "energy_digital_J": part.energy,
            }
        )
    static = static_energy(estimate, None)
    rest = {
        "layer": "(rest of the chip)",
        "energy_J": static,
        "energy_static_J": static,
        "area_m2": rest_area(estimate),
    }
    return [*found, rest]


def latency(estimate: Estimate, layer: LayerEstimate) -> float:
    """The time [s] of a layer that counts in the latency of the forward pass."""
    return layer.duration.overlapped if estimate.pipelined else layer.duration.serial


def static_energy(estimate: Estimate, layer: LayerEstimate | None) -> float:
    """``Estimate.static_energy``; NaN where a constant is missing."""
    missing = estimate.prices["energy"].missing
    if ("tile_power" if layer is not None else "chip_power") in missing:
        return math.nan
    try:
        return estimate.static_energy(layer)
    except ValueError:  # the time is unknown
        return math.nan


def rest_area(estimate: Estimate) -> float:
    """The area [m^2] of the chip besides its tiles; NaN if it is unknown."""
    constant = estimate.technology.constant("digital_area")
    return math.nan if constant is None else constant.value


def breakdown(estimate: Estimate, quantity: str) -> dict[str, dict[str, float]]:
    """The cost of each component by the name of the layer; see ``Estimate.breakdown``."""
    found: dict[str, dict[str, float]] = {}
    for layer in estimate.layers:
        name = layer.name or "(root)"
        if quantity == "area":
            found[name] = dict(layer.areas)
        elif quantity == "energy":
            found[name] = {**layer.energies, "static": estimate.static_energy(layer)}
        else:
            parts, vector = layer.stages._asdict(), layer.stages.latency
            time = latency(estimate, layer)
            found[name] = {stage: time * part / vector if vector else 0.0 for stage, part in parts.items()}
    rest = {
        "area": {"digital": rest_area(estimate)},
        "energy": {"static": estimate.static_energy(None) if quantity == "energy" else 0.0},
        "latency": {},
    }
    digital = {"energy": sum(d.energy for d in estimate.digital), "latency": sum(d.time for d in estimate.digital)}
    if quantity != "area":
        found["(digital unit)"] = {"digital": digital[quantity]}
    return {**found, "(rest of the chip)": rest[quantity]}


def csv_text(found: list[dict[str, Any]]) -> str:
    """Rows as CSV; a field that a row lacks, or that is unknown, is empty."""
    names = list(dict.fromkeys(name for row in found for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, restval="")
    writer.writeheader()
    writer.writerows({name: _cell(value, "") for name, value in row.items()} for row in found)
    return text.getvalue()


def _cell(value: Any, unknown: Any) -> Any:
    return unknown if isinstance(value, float) and math.isnan(value) else value


def content(estimate: Estimate) -> dict[str, Any]:
    """Everything that an estimate says, as JSON can store it."""
    return {
        "samples": estimate.samples,
        "pipelined": estimate.pipelined,
        "energy_is_upper_bound": estimate.energy_is_upper_bound,
        "totals": totals(estimate),
        "rows": [{name: _cell(value, None) for name, value in row.items()} for row in rows(estimate)],
        "technology": json.loads(estimate.technology.to_json()),
        "missing": {quantity: sorted(prices.missing) for quantity, prices in estimate.prices.items() if prices.missing},
        "assumptions": assumptions(estimate),
    }


def totals(estimate: Estimate) -> dict[str, Any]:
    """Totals by name, in SI units; ``None`` where a constant is missing."""
    names = ("tiles", "devices", "operations", "latency", "serial_latency", "pipelined_latency", "interval", "energy",
             "area", "tops", "tops_per_watt", "tops_per_mm2", "samples_per_second", "samples_per_joule",
             "energies")  # fmt: skip
    return {name: known(estimate, name) for name in names}


def known(estimate: Any, name: str) -> Any:
    """An attribute of an estimate; ``None`` where a constant is missing, or where it is infinite."""
    try:
        value = getattr(estimate, name)
    except ValueError:  # a constant is missing
        return None
    return None if value == math.inf else value


def assumptions(estimate: Estimate) -> list[str]:
    """What an estimate assumes besides its constants."""
    found = ["word lines and bit lines that a layer does not use cost nothing in a product; they have an area"]
    origins = {layer.conductance.origin if layer.conductance else None for layer in estimate.layers}
    if "devices" in origins:
        found.append("conductances are those of the devices at their age; losses in wires are not subtracted")
    if "targets" in origins:
        found.append("conductances of weights that are not programmed are the targets of programming, without drift")
    if None in origins:
        found.append("layers without values have the average mean_conductance")
    if estimate.energy_is_upper_bound:
        found.append(
            f"array: an upper bound, {estimate.activity}; pass activity=, which pg.cost.measure_activity measures"
        )
    elif any(layer.energies["array"] for layer in estimate.layers):
        found.append(
            f"the drive of the word lines is an average, {estimate.activity}; it is not correlated with weights"
        )
    if estimate.pipelined:
        found.append("layers work on successive samples at the same time; stages of a tile overlap")
    else:
        found.append("one vector follows another, and one layer another")
    if any(layer.counts.results and not layer.counts.conversions for layer in estimate.layers):
        found.append("layers without an ADC convert nothing")
    products = [part.operator.name for part in estimate.digital if part.operator.products]
    free = [
        n for n in ("digital_energy", "digital_time") if getattr(estimate.technology.constant(n), "value", None) == 0
    ]
    if products and free:
        found.append(
            f"matrix products of the digital unit ({', '.join(products)}) cost nothing, because the technology has "
            f"{' and '.join(free)} of 0: replace them by those of a unit that computes such products"
        )
    if estimate.digital:
        found.append(
            "digital operators move their inputs and outputs once, in the dtype of the model; changes of layout and "
            "what does not depend on the input cost nothing"
        )
    return found


def balanced_replicas(estimate: Estimate, tiles: int) -> dict[str, int]:
    """Replicas that shorten the interval most; see ``Estimate.replicas_for``."""
    digital_time = estimate.digital_time
    single = {layer.name: layer.tiles // layer.replicas for layer in estimate.layers}
    alone = {layer.name: layer.duration.occupied * layer.replicas for layer in estimate.layers}
    free = tiles - sum(single.values())
    if free < 0:
        raise ValueError(
            f"replicas_for: tiles = {tiles}, but the net itself has {sum(single.values())} tiles; give at least those"
        )
    replicas = dict.fromkeys(single, 1)
    while replicas:
        slowest = max(replicas, key=lambda name: alone[name] / replicas[name])
        vectors = next(layer.counts.vectors for layer in estimate.layers if layer.name == slowest)
        full = single[slowest] > free or replicas[slowest] >= vectors
        if full or alone[slowest] / replicas[slowest] <= digital_time:
            return replicas
        replicas[slowest] += 1
        free -= single[slowest]
    return replicas
