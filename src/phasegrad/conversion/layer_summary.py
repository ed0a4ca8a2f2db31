"""Summary of a converted net: layers, tiles, devices and digital parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from phasegrad.conversion.bypass_watch import bypasses
from phasegrad.conversion.selection import left_digital
from phasegrad.nn import analog_layers


@dataclass(frozen=True)
class LayerSummary:
    """Summary of one analog layer."""

    name: str
    kind: str
    out_features: int
    in_features: int
    tiles: int
    devices: int
    utilisation: float
    """Fraction of the unit cells in its tiles that store weights."""
    store: str


@dataclass(frozen=True)
class Summary:
    """The result of [`summary`][phasegrad.summary], which prints as a table."""

    layers: tuple[LayerSummary, ...]
    digital: dict[str, str]
    """Why each module with weights stays digital, by name."""
    bypasses: dict[str, str] = field(default_factory=dict)
    """Parameters that a forward pass used in digital products; empty if no input was passed."""

    @property
    def tiles(self) -> int:
        """Number of tiles of all layers; layers do not share tiles."""
        return sum(layer.tiles for layer in self.layers)

    @property
    def devices(self) -> int:
        """Number of devices that store weights."""
        return sum(layer.devices for layer in self.layers)

    def __str__(self) -> str:
        head = ("layer", "kind", "out x in", "tiles", "devices", "utilisation", "weight")
        rows = [
            (
                layer.name or "(root)",
                layer.kind,
                f"{layer.out_features} x {layer.in_features}",
                f"{layer.tiles}",
                f"{layer.devices:,}",
                f"{layer.utilisation:.1%}",
                layer.store,
            )
            for layer in self.layers
        ]
        total = ("total", "", "", f"{self.tiles}", f"{self.devices:,}", "", "")
        lines = _table([head, *rows, total])
        for head, entries in (("digital:", self.digital), ("bypassing the tiles:", self.bypasses)):
            if entries:
                width = max(len(name or "(root)") for name in entries)
                lines += ["", head, *(f"  {name or '(root)':<{width}}  {why}" for name, why in entries.items())]
        return "\n".join(lines)


def summary(net: nn.Module, *inputs: Any, **named: Any) -> Summary:
    """Summarise layers, tiles, devices and utilisation of a converted net, and the modules that stay digital.

    A layer that occurs in several places is counted once.

    Args:
        net: a converted net.
        inputs: positional inputs of the net. If they are passed, the net is run once to list the products that bypass
            the tiles, as [`bypasses`][phasegrad.conversion.bypasses] finds them.
        named: keyword inputs of the net.

    Examples:
        >>> import phasegrad as pg
        >>> print(summary(pg.convert(nn.Sequential(nn.Linear(600, 10)), pg.presets.pcm_inference())))
        layer  kind          out x in  tiles  devices  utilisation  weight
        -------------------------------------------------------------------
        0      AnalogLinear  10 x 600      2   12,000         1.1%  digital
        -------------------------------------------------------------------
        total                              2   12,000
    """
    layers = []
    for name, layer in analog_layers(net).items():
        weights, hardware = layer.out_features * layer.in_features, layer.hardware
        layers.append(
            LayerSummary(
                name=name,
                kind=type(layer).__name__,
                out_features=layer.out_features,
                in_features=layer.in_features,
                tiles=layer.tiles,
                devices=layer.device_count,
                utilisation=weights / (layer.tiles * hardware.rows * hardware.columns),
                store=layer.store.name,
            )
        )
    found = bypasses(net, *inputs, **named) if inputs or named else {}
    return Summary(tuple(layers), left_digital(net), found)


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Align the columns, numbers to the right, with a rule below the header and above the total."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    align = ("<", "<", ">", ">", ">", ">", "<")
    lines = ["  ".join(f"{c:{a}{w}}" for c, a, w in zip(row, align, widths, strict=True)).rstrip() for row in rows]
    rule = "-" * max(len(line) for line in lines)
    return [lines[0], rule, *lines[1:-1], rule, lines[-1]]
