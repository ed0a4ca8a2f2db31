"""Estimates as text, rows and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import TYPE_CHECKING, Any

from phasegrad.cost.energy import COMPONENTS
from phasegrad.cost.prices import missing_constant
from phasegrad.cost.technology import RULES

if TYPE_CHECKING:
    from phasegrad.cost.report import Estimate

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n"),
             (1e-12, "p"), (1e-15, "f"))  # fmt: skip
_ALIGN = ("<", "<", ">", ">", ">", ">", ">", ">", ">", ">", ">")


def engineering(value: float, unit: str) -> str:
    """A number in the prefix that suits its size.

    Examples:
        >>> engineering(1.234e-8, "J"), engineering(0.0, "s"), engineering(float("nan"), "J")
        ('12.3 nJ', '0 s', '-')
    """
    if math.isnan(value):
        return "-"
    if value == 0:
        return f"0 {unit}"
    size, prefix = next((p for p in _PREFIXES if abs(value) >= 0.9995 * p[0]), _PREFIXES[-1])
    return f"{value / size:.3g} {prefix}{unit}"


def square_millimetres(area: float) -> str:
    """An area [m^2] in mm^2."""
    return "-" if math.isnan(area) else f"{area * 1e6:.3g} mm2"


def rows(estimate: Estimate) -> list[dict[str, Any]]:
    """One dictionary per layer, and one for the digital operators of each kind."""
    found: list[dict[str, Any]] = []
    for layer in estimate.layers:
        duration = layer.duration.overlapped if estimate.pipelined else layer.duration.serial
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
                "latency_s": duration,
                "energy_J": layer.energy,
                **{f"energy_{name}_J": energy for name, energy in layer.energies.items()},
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
    return found


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
            duration = layer.duration.overlapped if estimate.pipelined else layer.duration.serial
            parts, vector = layer.stages._asdict(), layer.stages.latency
            found[name] = {stage: duration * time / vector if vector else 0.0 for stage, time in parts.items()}
    digital_area = estimate.technology.constant("digital_area")
    rest = {
        "area": {"digital": 0.0 if digital_area is None else digital_area.value},
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
    return {name: _known(estimate, name) for name in names}


def _known(estimate: Estimate, name: str) -> Any:
    try:
        value = getattr(estimate, name)
    except ValueError:  # a constant is missing
        return None
    except ZeroDivisionError:  # technologies in which something takes no time or no energy
        return None
    return value


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
    if estimate.activity is not None:
        found.append(
            f"the drive of the word lines is an average, {estimate.activity}; it is not correlated with weights"
        )
    if estimate.pipelined:
        found.append("layers work on successive samples at the same time; stages of a tile overlap")
    else:
        found.append("one vector follows another, and one layer another")
    if any(layer.counts.results and not layer.counts.conversions for layer in estimate.layers):
        found.append("layers without an ADC convert nothing")
    if estimate.digital:
        found.append(
            "digital operators move their inputs and outputs once, in the dtype of the model; changes of layout and "
            "what does not depend on the input cost nothing"
        )
    return found


def text(estimate: Estimate) -> str:
    """The tables that ``print`` shows."""
    lines = [*_layer_table(estimate), "", *_summary(estimate)]
    shares = _known(estimate, "energies")
    if shares and sum(shares.values()) > 0:
        total = sum(shares.values())
        parts = [f"{name} {shares[name] / total:.1%}" for name in COMPONENTS if shares[name] > 0]
        lines += ["energy by component: " + ", ".join(parts)]
    lines += _constants(estimate) + _missing(estimate)
    return "\n".join([*lines, "", "assumptions:", *(f"  {line}" for line in assumptions(estimate))])


def _layer_table(estimate: Estimate) -> list[str]:
    head = ("layer", "kind", "out x in", "tiles", "devices", "utilisation", "products", "conversions", "latency",
            "energy", "area")  # fmt: skip
    body: list[tuple[str, ...]] = []
    for layer in estimate.layers:
        duration = layer.duration.overlapped if estimate.pipelined else layer.duration.serial
        size = f"{layer.out_features} x {layer.in_features}"
        body.append(
            (
                layer.name or "(root)",
                layer.kind,
                size,
                f"{layer.tiles:,}",
                f"{layer.devices:,}",
                f"{layer.utilisation:.1%}",
                f"{layer.counts.products:,}",
                f"{layer.counts.conversions:,}",
                engineering(duration, "s"),
                engineering(layer.energy, "J"),
                square_millimetres(layer.area),
            )
        )
    digital_time, digital_energy = (sum(getattr(d, name) for d in estimate.digital) for name in ("time", "energy"))
    rest = ("", "", "", "", "", "")
    body.append(
        ("(digital unit)", *rest, "", engineering(digital_time, "s"), engineering(digital_energy, "J"), "")
    )  # fmt: skip
    counts = estimate.counts
    known = {name: _or_nan(_known(estimate, name)) for name in ("latency", "energy", "area")}
    total = (
        "total", "", "", f"{estimate.tiles:,}", f"{estimate.devices:,}", "", f"{counts.products:,}",
        f"{counts.conversions:,}", engineering(known["latency"], "s"), engineering(known["energy"], "J"),
        square_millimetres(known["area"]),
    )  # fmt: skip
    return aligned([head, *body, total])


def aligned(table: list[tuple[str, ...]], align: tuple[str, ...] = _ALIGN) -> list[str]:
    """Align columns, with a rule below the header and above the last row."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = ["  ".join(f"{c:{a}{w}}" for c, a, w in zip(row, align, widths, strict=False)).rstrip() for row in table]
    rule = "-" * max(map(len, lines))
    return [lines[0], rule, *lines[1:-1], rule, lines[-1]]


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _summary(estimate: Estimate) -> list[str]:
    found = totals(estimate)
    what = f"{estimate.samples} sample{'s' if estimate.samples != 1 else ''}, {estimate.operations:,.0f} operations"
    lines = [what]
    if found["latency"] is not None:
        serial, pipelined, interval = (found[n] for n in ("serial_latency", "pipelined_latency", "interval"))
        lines.append(
            f"latency: {engineering(serial, 's')} serial, {engineering(pipelined, 's')} with overlapping stages; one "
            f"forward pass every {engineering(interval, 's')} if layers overlap too"
        )
    figures = (("tops", "TOPS"), ("tops_per_watt", "TOPS/W"), ("tops_per_mm2", "TOPS/mm2"),
               ("samples_per_second", "samples/s"), ("samples_per_joule", "samples/J"))  # fmt: skip
    shown = [f"{found[name]:,.4g} {unit}" for name, unit in figures if found[name] is not None]
    return lines + ([", ".join(shown)] if shown else [])


def _constants(estimate: Estimate) -> list[str]:
    used = {name for prices in estimate.prices.values() for name in prices.used}
    constants = {name: c for name, c in estimate.technology.constants.items() if name in used}
    if not constants:
        return []
    width = max(map(len, constants))
    values = {name: f"{c.value:.4g} {RULES[name].unit}" for name, c in constants.items()}
    wide = max(map(len, values.values()))
    lines = [f"  {n:<{width}}  {values[n]:<{wide}}  {c.origin}: {c.source}" for n, c in constants.items()]
    return ["", "constants:", *lines]


def _missing(estimate: Estimate) -> list[str]:
    lines = [
        f"  {quantity}: {', '.join(missing_constant(name) for name in prices.missing)}"
        for quantity, prices in estimate.prices.items()
        if prices.missing and quantity in ("energy", "latency", "area")
    ]
    return ["", "not computed, because constants are missing:", *lines] if lines else []


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
