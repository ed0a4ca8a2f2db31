"""Faults of a chip: which devices are stuck, drawn, read back, and in files."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from phasegrad import argument_checks as checks
from phasegrad.devices import FaultMap, Faults
from phasegrad.inference.programming import Seeds, check_programmed, seeded_groups
from phasegrad.nn import AnalogLayer, analog_layers
from phasegrad.nn.copying import copy_net
from phasegrad.nn.known_faults import array_shapes, require_layer
from phasegrad.nn.layer import require_analog_layers
from phasegrad.stores import AnalogWeight
from phasegrad.stores.stuck_devices import drawn, map_of
from phasegrad.writing import checked_path, write_whole

_COLUMNS = ("layer", "array", "device", "column", "row", "conductance_s")


@dataclass(frozen=True)
class LayerFaults:
    """Stuck devices of one layer."""

    name: str
    devices: int
    stuck: int
    at_reset: int
    """Of those, devices at the conductance of RESET or below, as on dead lines."""
    at_set: int
    """Of those, devices at ``g_max``."""
    weights: float
    """Fraction of the weights whose cell has a stuck device."""

    @property
    def fraction(self) -> float:
        """Fraction of the devices that are stuck."""
        return self.stuck / self.devices


@dataclass(frozen=True)
class FaultReport:
    """The result of [`faults`][phasegrad.inference.faults], which prints as a table."""

    layers: tuple[LayerFaults, ...]

    @property
    def devices(self) -> int:
        """Number of devices."""
        return sum(layer.devices for layer in self.layers)

    @property
    def stuck(self) -> int:
        """Number of stuck devices."""
        return sum(layer.stuck for layer in self.layers)

    @property
    def working(self) -> float:
        """Fraction of the devices that respond: the yield of the devices."""
        return 1.0 - self.stuck / self.devices

    def __str__(self) -> str:
        head = (
            f"{'layer':<16} {'devices':>10} {'stuck':>8} {'at RESET':>9} {'at SET':>7} {'rate':>9} {'weights hit':>12}"
        )
        lines = [
            f"{layer.name or '(root)':<16} {layer.devices:>10,} {layer.stuck:>8,} {layer.at_reset:>9,} "
            f"{layer.at_set:>7,} {layer.fraction:>9.3%} {layer.weights:>12.2%}"
            for layer in self.layers
        ]
        total = f"{'total':<16} {self.devices:>10,} {self.stuck:>8,}"
        return "\n".join([head, "-" * len(head), *lines, "-" * len(head), total])


def faults(chip: nn.Module) -> FaultReport:
    """Count the stuck devices of each layer of a chip, or of a net that is trained in the memory.

    Layers that share devices are listed once.

    Raises:
        ValueError: the net was never programmed.

    Examples:
        >>> import phasegrad as pg
        >>> net = pg.convert(nn.Sequential(nn.Linear(16, 4)), pg.presets.ideal_inference())
        >>> chip = pg.inference.program(net, seed=0, faults=pg.devices.Faults(stuck_at_set=0.1))
        >>> report = faults(chip)
        >>> report.devices, report.layers[0].at_set == report.stuck
        (128, True)
    """
    check_programmed(chip, "faults")
    layers = {id(layer.devices): (name, layer) for name, layer in reversed(analog_layers(chip).items())}
    return FaultReport(tuple(_counted(name, layer) for name, layer in reversed(layers.values())))


def _counted(name: str, layer: AnalogLayer) -> LayerFaults:
    assert layer.devices is not None
    stuck = at_reset = at_set = 0
    for array in (layer.devices, layer.devices.fast, layer.devices.reference):
        if array is None or array.stuck is None:
            continue
        device = array.cell.device
        lowest = max(device.lowest, 0.0 if device.steps is None else device.steps.lowest)
        stuck += int((~array.stuck.isnan()).sum())
        at_reset += int((array.stuck <= lowest * (1.0 + 1e-6)).sum())
        at_set += int((array.stuck >= device.g_max * (1.0 - 1e-6)).sum())
    main = layer.devices.stuck
    hit = 0.0 if main is None else float((~main.isnan()).any(0).double().mean())
    return LayerFaults(name, layer.device_count, stuck, at_reset, at_set, hit)


def fault_maps(chip: nn.Module) -> dict[str, FaultMap]:
    """The stuck devices of a chip, or of a net that is trained in the memory, by layer name.

    A map is in the order of the physical columns, whatever outputs were assigned to them, so it can be passed to
    another [`program`][phasegrad.inference.program]. Layers that share devices are listed once.

    Raises:
        ValueError: the net was never programmed.
    """
    check_programmed(chip, "fault_maps")
    maps: dict[int, tuple[str, FaultMap]] = {}
    for name, layer in analog_layers(chip).items():
        assert layer.devices is not None
        if id(layer.devices) not in maps:
            maps[id(layer.devices)] = (name, map_of(layer.devices))
    return dict(maps.values())


def draw_faults(net: nn.Module, faults: Faults, *, seed: int) -> dict[str, FaultMap]:
    """Draw the stuck devices that a chip with this seed has, without programming it.

    Args:
        net: a converted net; it is not modified.
        faults: rates; ``Faults()`` gives maps of devices that all respond, to be filled in.
        seed: seed of the chip.

    Returns:
        By layer name, the maps of ``program(net, seed=seed, faults=faults)``. Layers that will share devices are listed
        once.

    Raises:
        ValueError: the net has no analog layer.

    Examples:
        >>> import phasegrad as pg
        >>> net = pg.convert(nn.Sequential(nn.Linear(16, 4)), pg.presets.ideal_inference())
        >>> maps = draw_faults(net, Faults(), seed=0)
        >>> maps["0"].stuck[0, 2, 5] = 0.0  # the first device of the weight from input 5 to output 2
        >>> chip = pg.inference.program(net, seed=0, faults=maps, map_around=("pair",))
    """
    checks.instance("draw_faults", "faults", faults, Faults)
    seed = checks.seed("draw_faults", seed)
    require_analog_layers(net, "draw_faults")
    groups = seeded_groups(copy_net(net), Seeds(seed))
    return {
        name: drawn(_blank(group[name]), faults, of_group) for group, of_group in groups for name in list(group)[:1]
    }


def _blank(layer: AnalogLayer) -> AnalogWeight:
    """Devices in the shape of a layer, without memory."""
    return AnalogWeight(layer.hardware, layer.out_features, layer.in_features, layer.columns, "meta")


def save_fault_maps(maps: Mapping[str, FaultMap], path: str | os.PathLike[str]) -> None:
    """Write one row per stuck device: layer, array, device, column (output), row (input), conductance [S].

    The array is ``stuck``, ``fast`` or ``reference``, as the attributes of [`FaultMap`][phasegrad.devices.FaultMap].

    Raises:
        TypeError: ``path`` is no path, or a value is no map.
        OSError: the file could not be written; an existing file is unchanged.
    """
    file, text = checked_path(path, "save_fault_maps"), io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for name, given in maps.items():
        checks.instance("save_fault_maps", f"maps[{name!r}]", given, FaultMap)
        writer.writerows((name, *entry) for entry in given.entries())
    write_whole(file, text.getvalue())


def load_fault_maps(path: str | os.PathLike[str], net: nn.Module) -> dict[str, FaultMap]:
    """Read the stuck devices that ``save_fault_maps`` or a tester wrote.

    Args:
        path: a file with the columns of ``save_fault_maps``, in any order.
        net: the converted net, for the shapes of its devices.

    Returns:
        The maps of the layers that the file names.

    Raises:
        ValueError: a column is missing, or a row names no device of the net; the message has the number of the line.
        OSError: the file cannot be read.
    """
    layers = require_analog_layers(net, "load_fault_maps")
    with open(checks.path("load_fault_maps", "path", path), newline="") as file:
        rows = csv.DictReader(file)
        missing = [name for name in _COLUMNS if name not in (rows.fieldnames or ())]
        if missing:
            raise ValueError(
                f"load_fault_maps: {path} has the columns {rows.fieldnames}; {', '.join(missing)} is missing"
            )
        return _read(rows, layers)


def _read(rows: Iterable[dict[str, str]], layers: Mapping[str, AnalogLayer]) -> dict[str, FaultMap]:
    maps: dict[str, dict[str, torch.Tensor]] = {}
    for line, row in enumerate(rows, 2):
        try:
            name, part, *place = (row[column] for column in _COLUMNS[:-1])
            layer = require_layer("load_fault_maps", name, layers)
            if name not in maps:
                maps[name] = {key: torch.full(shape, torch.nan) for key, shape in array_shapes(layer).items()}
            index = tuple(int(i) for i in place)
            if part not in maps[name] or not all(
                0 <= i < n for i, n in zip(index, maps[name][part].shape, strict=True)
            ):
                raise ValueError(f"the layer has no such device; its arrays are {array_shapes(layer)}")
            maps[name][part][index] = float(row[_COLUMNS[-1]])
        except (ValueError, TypeError) as error:
            raise ValueError(f"load_fault_maps: line {line}, {list(row.values())}: {error}") from error
    return {name: FaultMap(**arrays) for name, arrays in maps.items()}
