"""Summary of a converted net: layers, tiles, devices and digital parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from phasegrad import argument_checks as checks
from phasegrad.conversion.bypass_watch import BypassWatch, watch_pass
from phasegrad.conversion.selection import left_digital
from phasegrad.nn import AnalogLayer, analog_layers


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
    stuck: int = 0
    """Devices that are known to be stuck."""
    computed: str = ""
    """What computed its products in one forward pass: ``analog``, ``digital``, ``both``, or ``nothing`` if the layer
    was not called; empty if no input was passed."""


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
        watched = any(layer.computed for layer in self.layers)
        faulty = any(layer.stuck for layer in self.layers)
        head = (*head, *(("stuck",) if faulty else ()), *(("computed",) if watched else ()))
        rows = [
            (
                layer.name or "(root)",
                layer.kind,
                f"{layer.out_features} x {layer.in_features}",
                f"{layer.tiles}",
                f"{layer.devices:,}",
                f"{layer.utilisation:.1%}",
                layer.store,
                *((f"{layer.stuck:,}",) if faulty else ()),
                *((layer.computed,) if watched else ()),
            )
            for layer in self.layers
        ]
        stuck = (f"{sum(layer.stuck for layer in self.layers):,}",) if faulty else ()
        total = ("total", "", "", f"{self.tiles}", f"{self.devices:,}", "", "", *stuck, *(("",) if watched else ()))
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
        inputs: positional inputs of the net. If they are passed, the net is run once: the column ``computed`` says
            whether the products with the weights of a layer were ``analog``, ``digital`` or ``both``, and the products
            that bypass the tiles are listed, as [`bypasses`][phasegrad.conversion.bypasses] finds them.
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
    watch = watch_pass(net, *inputs, **named) if inputs or named else None
    layers = []
    for name, layer in analog_layers(checks.module("summary", "net", net)).items():
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
                stuck=0 if layer.devices is None else layer.devices.stuck_count,
                computed=_computed(layer, watch) if watch is not None else "",
            )
        )
    return Summary(tuple(layers), left_digital(net), watch.found if watch is not None else {})


def _computed(layer: AnalogLayer, watch: BypassWatch) -> str:
    """What computed the products with a layer's weight."""
    analog, digital = id(layer) in watch.called, id(layer) in watch.bypassed
    return "both" if analog and digital else "analog" if analog else "digital" if digital else "nothing"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Align the columns, numbers to the right, with a rule below the header and above the total."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    align = ["<" if name in ("layer", "kind", "weight", "computed") else ">" for name in rows[0]]
    lines = ["  ".join(f"{c:{a}{w}}" for c, a, w in zip(row, align, widths, strict=True)).rstrip() for row in rows]
    rule = "-" * max(len(line) for line in lines)
    return [lines[0], rule, *lines[1:-1], rule, lines[-1]]
