"""Known faults of a net: which layer has which, checked before anything is programmed."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from phasegrad import argument_checks as checks
from phasegrad.devices import FaultMap, Faults
from phasegrad.nn.layer import AnalogLayer
from phasegrad.stores import AnalogWeight
from phasegrad.stores.stuck_devices import MAP_AROUND, KnownFaults, drawn

FaultSource: TypeAlias = Faults | Mapping[str, FaultMap] | None
"""Rates of faults, or the stuck devices of layers by name; ``None`` for those that the hardware states."""


@final
@dataclass(frozen=True)
class NetFaults:
    """The known faults of each layer of a net."""

    caller: str
    named: Mapping[str, KnownFaults]
    others: KnownFaults | None
    """Those of layers that are not named; ``None`` to leave them to the hardware."""

    def of(self, names: Collection[str]) -> KnownFaults | None:
        """The faults of the devices that layers of these names share.

        Raises:
            ValueError: two of the layers are named, but have the same devices.
        """
        found = [name for name in names if name in self.named]
        if len(found) > 1:
            raise ValueError(
                f"{self.caller}: faults has {' and '.join(map(repr, found))}, but these layers share a weight and its "
                "devices; give the map of one of them"
            )
        return self.named[found[0]] if found else self.others


def net_faults(
    caller: str, layers: Mapping[str, AnalogLayer], faults: FaultSource, map_around: Sequence[str]
) -> NetFaults:
    """Check the arguments ``faults`` and ``map_around`` of a function that programs layers.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: a name is unknown; a map has another shape than the devices, or conductances outside of their
            window; or a layer cannot be mapped around its faults in this way.
    """
    ways = _check_ways(caller, map_around)
    for name, layer in layers.items() if ways else ():
        _check_possible(caller, name or "the net", layer, ways)
    if isinstance(faults, Faults):
        return NetFaults(caller, {}, KnownFaults(functools.partial(_drawn, faults), ways))
    if isinstance(faults, Mapping):
        for name, given in faults.items():
            _check_map(caller, name, given, layers)
        named = {name: KnownFaults(functools.partial(_given, given), ways) for name, given in faults.items()}
        return NetFaults(caller, named, KnownFaults(functools.partial(_drawn, Faults())))
    if faults is not None:
        raise TypeError(
            f"{caller}: faults = {checks.shown(faults)}; it must be Faults(...), such as pg.devices.Faults("
            "stuck_at_reset=1e-3), or a dictionary {layer name: FaultMap}"
        )
    if not ways:
        return NetFaults(caller, {}, None)
    for name, layer in layers.items():
        if layer.hardware.faults is None:
            raise ValueError(
                f"{caller}: map_around = {ways}, but no faults of {name or 'the net'} are known; pass faults=, or use "
                "hardware with faults"
            )
    return NetFaults(caller, {}, KnownFaults(_of_hardware, ways))


def _of_hardware(devices: AnalogWeight, seed: Tensor) -> FaultMap:
    assert devices.hardware.faults is not None
    return drawn(devices, devices.hardware.faults, seed)


def _drawn(faults: Faults, devices: AnalogWeight, seed: Tensor) -> FaultMap:
    return drawn(devices, faults, seed)


def _given(faults: FaultMap, devices: AnalogWeight, seed: Tensor) -> FaultMap:
    return faults


def _check_ways(caller: str, map_around: Any) -> tuple[str, ...]:
    rule = f"it must be a tuple of {' and '.join(map(repr, MAP_AROUND))}, such as ('pair',)"
    if isinstance(map_around, str) or not isinstance(map_around, Sequence):
        raise TypeError(f"{caller}: map_around = {checks.shown(map_around)}; {rule}")
    if any(way not in MAP_AROUND for way in map_around):
        raise ValueError(f"{caller}: map_around = {checks.shown(map_around)}; {rule}")
    return tuple(map_around)


def _check_possible(caller: str, name: str, layer: AnalogLayer, ways: tuple[str, ...]) -> None:
    hardware = layer.hardware
    if "pair" in ways and len(hardware.cell.factors) < 2:
        raise ValueError(
            f"{caller}: map_around = {ways}, but the cell of {name}, {type(hardware.cell).__name__}, has one device; "
            "leave out 'pair', or use a DifferentialPair"
        )
    if "columns" in ways and hardware.wires is not None:
        raise ValueError(
            f"{caller}: map_around = {ways}, but the wires of {name} have resistance, and where a column lies on them "
            "is not followed when columns are swapped; leave out 'columns', or use wires=None"
        )


def array_shapes(layer: AnalogLayer) -> dict[str, tuple[int, int, int]]:
    """The shapes of the arrays of a layer's devices, by their names in a ``FaultMap``."""
    hardware, outputs, inputs = layer.hardware, layer.out_features, layer.in_features
    shapes = {"stuck": (len(hardware.cell.factors), outputs, inputs)}
    if hardware.fast is not None:
        shapes["fast"] = (len(hardware.fast.cell.factors), outputs, inputs)
    if hardware.cell.has_reference:
        shapes["reference"] = (len(hardware.cell.factors), -(-outputs // layer.columns), inputs)
    return shapes


def require_layer(caller: str, name: object, layers: Mapping[str, AnalogLayer]) -> AnalogLayer:
    """The layer of a name; raise ``ValueError`` with those that exist if there is none."""
    if not isinstance(name, str) or name not in layers:
        known = [repr(known) for known in layers]
        more = f" and {len(known) - 10} more" if len(known) > 10 else ""
        raise ValueError(f"{caller}: faults has {name!r}; the layers are {', '.join(known[:10])}{more}")
    return layers[name]


def _check_map(caller: str, name: object, given: object, layers: Mapping[str, AnalogLayer]) -> None:
    layer = require_layer(caller, name, layers)
    if not isinstance(given, FaultMap):
        raise TypeError(f"{caller}: faults[{name!r}] = {checks.shown(given)}; it must be a FaultMap")
    shapes = array_shapes(layer)
    for part, array in given.arrays.items():
        if array is not None:
            _check_array(f"{caller}: faults[{name!r}].{part}", array, shapes.get(part), layer, part)


def _check_array(what: str, array: object, shape: tuple[int, ...] | None, layer: AnalogLayer, part: str) -> None:
    if not isinstance(array, Tensor) or not array.is_floating_point():
        raise TypeError(f"{what} = {checks.shown(array)}; it must be a floating-point tensor, with NaN where healthy")
    if shape is None:
        raise ValueError(f"{what} has shape {list(array.shape)}, but the hardware has no such devices; leave it None")
    if array.shape != shape:
        raise ValueError(
            f"{what} has shape {list(array.shape)}; the layer has devices {list(shape)}: [devices, out, in]. "
            "pg.inference.fault_maps makes maps of the right shapes"
        )
    fast = layer.hardware.fast
    device = (fast.cell if part == "fast" and fast is not None else layer.hardware.cell).device
    found = array.detach()[~array.detach().isnan()]
    if found.numel() and not bool(((found >= 0.0) & (found <= device.g_max * (1.0 + 1e-6))).all()):
        low, high = (float(bound) for bound in torch.aminmax(found))
        raise ValueError(
            f"{what} has conductances of {low:g} to {high:g} S; they must be in [0, g_max = {device.g_max:g}] S, in "
            "siemens, and NaN for devices that respond"
        )
