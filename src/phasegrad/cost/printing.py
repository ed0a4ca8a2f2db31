"""Estimates as text of at most 120 columns."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

from phasegrad.cost.energy import COMPONENTS
from phasegrad.cost.prices import missing_constant
from phasegrad.cost.tables import assumptions, known, latency, rest_area, static_energy, totals
from phasegrad.cost.technology import RULES

if TYPE_CHECKING:
    from phasegrad.cost.report import Estimate

WIDTH = 120
"""Columns of a line."""
MISSING = "not computed, because constants are missing:"
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n"),
             (1e-12, "p"), (1e-15, "f"))  # fmt: skip
_ALIGN = ("<", "<", ">", ">", ">", ">", ">", ">", ">", ">", ">")
_PRICED = 3
"""Columns of the table of layers that need a technology: the last ones."""


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


def total(estimate: object, name: str, unit: str) -> str:
    """A total of an estimate; a dash if a constant is missing."""
    value = known(estimate, name)
    return engineering(math.nan if value is None else value, unit)


def aligned(table: list[tuple[str, ...]], align: tuple[str, ...] = _ALIGN) -> list[str]:
    """Align columns, with a rule below the header and above the last row, with names that fit."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    widths[0] = min(widths[0], max(18, WIDTH - sum(widths[1:]) - 2 * len(widths[1:])))
    named = [(_shortened(row[0], widths[0]), *row[1:]) for row in table]
    lines = ["  ".join(f"{c:{a}{w}}" for c, a, w in zip(row, align, widths, strict=False)).rstrip() for row in named]
    rule = "-" * max(map(len, lines))
    return [lines[0], rule, *lines[1:-1], rule, lines[-1]]


def _shortened(name: str, width: int) -> str:
    """A name that fits: modules from the left become initials, as in ``e.l.0.a.self.query``; then only its end."""
    parts = name.split(".")
    for i in range(len(parts) - 1):
        if len(".".join(parts)) <= width:
            break
        parts[i] = parts[i] if parts[i].isdecimal() else parts[i][:1]
    short = ".".join(parts)
    return short if len(short) <= width else f"...{short[3 - width :]}"


def wrapped(line: str, indent: int = 2, hanging: int = 4) -> list[str]:
    """A line in lines of at most ``WIDTH`` columns."""
    return textwrap.wrap(
        line, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * hanging, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def listed_assumptions(lines: Iterable[str]) -> list[str]:
    """Assumptions below their headline."""
    return ["", "assumptions:", *(part for line in lines for part in wrapped(line))]


def text(estimate: Estimate) -> str:
    """What ``print`` shows: layers, totals, constants with their sources, what is missing, and assumptions."""
    counted = not estimate.technology.constants
    lines = [*_layer_table(estimate, counted), "", *_summary(estimate)]
    if counted:
        return "\n".join([*lines, *wrapped(NO_TECHNOLOGY, 0, 0)])
    lines += _shares(estimate) + _constants(estimate) + _missing(estimate)
    return "\n".join([*lines, *listed_assumptions(assumptions(estimate))])


NO_TECHNOLOGY = (
    "Latency, energy and area need the constants of a technology: pass technology=pg.cost.hermes_64_core(), another "
    "published chip (hermes_core, ambrogio_2023), or pg.cost.Technology(...) with constants of your own."
)
"""What to do where nothing but counts is known."""


def _layer_table(estimate: Estimate, counted: bool) -> list[str]:
    head = ("layer", "kind", "out x in", "tiles", "devices", "used", "products", "conversions", "latency",
            "energy <=" if estimate.energy_is_upper_bound else "energy", "area")  # fmt: skip
    layers = [
        (
            layer.name or "(root)",
            layer.kind.removeprefix("Analog"),
            f"{layer.out_features} x {layer.in_features}",
            f"{layer.tiles:,}",
            f"{layer.devices:,}",
            f"{layer.utilisation:.1%}",
            f"{layer.counts.products:,}",
            f"{layer.counts.conversions:,}",
            engineering(latency(estimate, layer), "s"),
            engineering(layer.energy + static_energy(estimate, layer), "J"),
            square_millimetres(layer.area),
        )
        for layer in estimate.layers
    ]
    table = [head, *layers, *_rows_of_the_rest(estimate), _total_row(estimate)]
    if counted:
        table = [row[:-_PRICED] for row in table if row[0] not in ("(digital unit)", "(rest of the chip)")]
    return aligned(table)


def _rows_of_the_rest(estimate: Estimate) -> list[tuple[str, ...]]:
    """The digital unit, and the power and area of the chip that belong to no layer."""
    time, energy = (sum(getattr(d, name) for d in estimate.digital) for name in ("time", "energy"))
    blank, static, area = ("",) * 7, static_energy(estimate, None), rest_area(estimate)
    unit = ("(digital unit)", *blank, engineering(time, "s"), engineering(energy, "J"), "")
    rest = ("(rest of the chip)", *blank, "", engineering(static, "J"), square_millimetres(area))
    return [unit] if static == area == 0 else [unit, rest]


def _total_row(estimate: Estimate) -> tuple[str, ...]:
    counts, area = estimate.counts, known(estimate, "area")
    return (
        "total", "", "", f"{estimate.tiles:,}", f"{estimate.devices:,}", "", f"{counts.products:,}",
        f"{counts.conversions:,}", total(estimate, "latency", "s"), total(estimate, "energy", "J"),
        square_millimetres(math.nan if area is None else area),
    )  # fmt: skip


def _summary(estimate: Estimate) -> list[str]:
    found = totals(estimate)
    what = f"{estimate.samples} sample{'s' if estimate.samples != 1 else ''}, {estimate.operations:,.0f} operations"
    lines = [what]
    if found["latency"] is not None:
        serial, pipelined, interval = (found[n] for n in ("serial_latency", "pipelined_latency", "interval"))
        lines += wrapped(
            f"latency: {engineering(serial, 's')} serial, {engineering(pipelined, 's')} with overlapping stages; one "
            f"forward pass every {engineering(interval, 's')} if layers overlap too",
            0,
        )
    least = "at least " if estimate.energy_is_upper_bound else ""
    figures = (("tops", "", "TOPS"), ("tops_per_watt", least, "TOPS/W"), ("tops_per_mm2", "", "TOPS/mm2"),
               ("samples_per_second", "", "samples/s"), ("samples_per_joule", least, "samples/J"))  # fmt: skip
    shown = [f"{bound}{found[name]:,.4g} {unit}" for name, bound, unit in figures if found[name] is not None]
    return lines + ([", ".join(shown)] if shown else [])


def _shares(estimate: Estimate) -> list[str]:
    energies = known(estimate, "energies")
    whole = sum(energies.values()) if energies else 0.0
    if not whole > 0:
        return []
    bound = " (at most)" if estimate.energy_is_upper_bound else ""
    parts = [
        f"{name} {100 * energies[name] / whole:.3g} %{bound if name == 'array' else ''}"
        for name in COMPONENTS
        if energies[name] > 0
    ]
    return wrapped("energy by component: " + ", ".join(parts), 0)


def _constants(estimate: Estimate) -> list[str]:
    """The constants that were used, one a line; those of 0 by their source."""
    used = {name for prices in estimate.prices.values() for name in prices.used}
    constants = {name: c for name, c in estimate.technology.constants.items() if name in used}
    shown = {name: c for name, c in constants.items() if c.value != 0}
    width = max(map(len, shown), default=0)
    values = {name: f"{c.value:.4g} {RULES[name].unit}" for name, c in shown.items()}
    wide = max(map(len, values.values()), default=0)
    lines = [
        part
        for n, c in shown.items()
        for part in wrapped(f"{n:<{width}}  {values[n]:<{wide}}  {c.origin}: {c.source}", 2, width + wide + 6)
    ]
    free: dict[str, list[str]] = {}
    for name, c in constants.items():
        if c.value == 0:
            free.setdefault(f"{c.origin}: {c.source}", []).append(name)
    none = [part for source, names in free.items() for part in wrapped(f"{', '.join(names)}: {source}")]
    return [
        *(["", "constants:", *lines] if lines else []),
        *(["", "constants of 0, which cost nothing or are part of others:", *none] if none else []),
    ]


def _missing(estimate: Estimate) -> list[str]:
    lines = [
        part
        for quantity, prices in estimate.prices.items()
        if prices.missing and quantity in ("energy", "latency", "area")
        for part in wrapped(f"{quantity}: {', '.join(missing_constant(name) for name in prices.missing)}")
    ]
    return ["", MISSING, *lines] if lines else []
