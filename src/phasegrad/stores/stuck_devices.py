"""Stuck devices of a weight: which there are, and how a chip is programmed around them.

Every function accepts the devices of a weight first. What a stuck device does is part of
``phasegrad.stores.device_array``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from phasegrad.cells import Cell
from phasegrad.crossbar import streams
from phasegrad.devices import FaultMap
from phasegrad.devices.faults import STREAMS, ArrayGeometry, Faults

if TYPE_CHECKING:
    from phasegrad.stores.analog_weight import AnalogWeight
    from phasegrad.stores.device_array import DeviceArray

MAP_AROUND = ("pair", "columns")
"""Ways to program around stuck devices: with the other devices of a cell, and by swapping columns within a tile."""


@final
@dataclass(frozen=True)
class KnownFaults:
    """What programming knows of the faults of one weight.

    Attributes:
        source: the stuck devices, given a weight's devices and the seed of its programming.
        map_around: ways to program around them, of ``MAP_AROUND``.
    """

    source: Callable[[AnalogWeight, Tensor], FaultMap]
    map_around: tuple[str, ...] = ()

    def install(self, devices: AnalogWeight, relative: Tensor, scale: Tensor, seed: Tensor) -> None:
        """Let devices obey the faults, before they are programmed to weights in [-1, 1] with these scales."""
        set_map(devices, self.source(devices, seed), corrects="pair" in self.map_around)
        if "columns" in self.map_around:
            swap_columns(devices, relative, scale)


def drawn(devices: AnalogWeight, faults: Faults, seed: Tensor) -> FaultMap:
    """The stuck devices that rates of faults give the arrays of a weight under this seed."""

    def of(index: int, array: DeviceArray) -> Tensor:
        offset = streams.FAULTS + STREAMS * index
        return faults.draw(_geometry(devices, array), seed, offset, streams.FAULTS)

    others = (None if array is None else of(i, array) for i, array in enumerate(_arrays(devices)[1:], 1))
    return FaultMap(of(0, devices), *others)


def set_map(devices: AnalogWeight, faults: FaultMap, *, corrects: bool) -> None:
    """Let devices obey a map from their next programming on, which draws their other parameters anew."""
    for array, stuck in zip(_arrays(devices), faults.arrays.values(), strict=True):
        if array is None:
            continue
        blank = array.blank("stuck")
        array.register_buffer("stuck", blank if stuck is None else blank.copy_(stuck))
        several = corrects and len(array.cell.factors) > 1
        array.register_buffer("corrects_stuck", array.blank("corrects_stuck") if several else None)
        if array.step_parameters is not None:
            array.step_parameters.zero_()
    devices.register_buffer("column_order", None)


def map_of(devices: AnalogWeight) -> FaultMap:
    """The stuck devices of a weight, in the order of its physical columns."""
    stuck = [None if array is None else array.stuck for array in _arrays(devices)]
    order = devices.column_order
    if order is not None:
        stuck[:2] = (None if one is None else _in_physical_order(devices, one, order) for one in stuck[:2])
    main = torch.full_like(devices.conductance, torch.nan) if stuck[0] is None else stuck[0]
    return FaultMap(main.clone(), *(None if one is None else one.clone() for one in stuck[1:]))


def _arrays(devices: AnalogWeight) -> tuple[DeviceArray | None, ...]:
    return devices, devices.fast, devices.reference


def _geometry(devices: AnalogWeight, array: DeviceArray) -> ArrayGeometry:
    cell, device = array.cell, array.cell.device
    steps = device.steps
    reset = max(device.lowest, 0.0 if steps is None else steps.lowest)
    exact_reference = cell.offset != 0.0 and not cell.has_reference
    undriven = cell.targets(torch.zeros(1))[0].item() if exact_reference else 0.0
    planes, outputs, inputs = array.conductance.shape
    columns = 1 if array is devices.reference else devices.columns
    return ArrayGeometry((planes, outputs, inputs), devices.hardware.rows, columns, reset, device.g_max, undriven)


def corrected_targets(cell: Cell, targets: Tensor, weight: Tensor, stuck: Tensor, lowest: float) -> Tensor:
    """Targets with which the devices that respond take up what the stuck ones of their cell lack.

    The other device of a pair comes first. What it cannot reach is left to the other devices, those of the largest
    significance first.

    Args:
        cell: the cell.
        targets: targets without faults ``[devices, *shape]`` [S].
        weight: weights ``[*shape]`` in [-1, 1] that the cells should have.
        stuck: conductances of stuck devices ``[devices, *shape]`` [S]; NaN for devices that respond.
        lowest: lowest target [S].
    """
    cells = (~stuck.isnan()).any(0).flatten().nonzero().squeeze(1)
    wanted, given = (planes.flatten(1)[:, cells] for planes in (targets, stuck))
    slopes = [factor / cell.device.window for factor in cell.factors]
    held = ~given.isnan()
    present = torch.where(held, given, wanted)
    for plane, slope in enumerate(slopes):
        other = plane ^ 1
        if other < len(slopes) and slopes[other] == -slope:
            short = torch.where(held[other], wanted[other] - present[other], 0.0)
            _raise(present, plane, -short, held, lowest, cell.device.g_max)
    for plane in sorted(range(len(slopes)), key=lambda k: -abs(slopes[k])):
        missing = weight.flatten()[cells] - cell.weight(present)
        _raise(present, plane, missing / slopes[plane], held, lowest, cell.device.g_max)
    result = targets.clone()
    result.view(len(targets), -1)[:, cells] = torch.where(held, wanted, present)
    return result


def _raise(present: Tensor, plane: int, by: Tensor, held: Tensor, lowest: float, highest: float) -> None:
    """Raise the targets of one plane in place, as far as the window allows, where its devices respond."""
    moved = (present[plane] + by).clamp(lowest, highest)
    present[plane] = torch.where(held[plane], present[plane], moved)


_AT_ONCE = 1 << 21
"""Cells whose errors are computed at a time."""


@torch.no_grad()
def swap_columns(devices: AnalogWeight, relative: Tensor, scale: Tensor) -> None:
    """Assign outputs to the columns of their tiles, so that stuck devices change the weights little.

    Args:
        devices: devices with stuck ones, not programmed yet.
        relative: weights ``[out, in]`` in [-1, 1].
        scale: ``[row tiles, out]``.
    """
    assert devices.stuck is not None
    order = torch.arange(relative.shape[0], device=relative.device).repeat(len(scale), 1)
    for tile, rows, columns in _tiles(devices, order):
        cost = _costs(devices, relative[columns, rows], devices.stuck[:, columns, rows])
        chosen = _assigned(cost * scale[tile, columns].square().unsqueeze(1))
        order[tile, columns] = columns.start + chosen
    for array in (devices, devices.fast):
        if array is not None and array.stuck is not None:
            array.register_buffer("stuck", _in_logical_order(devices, array.stuck, order))
    devices.register_buffer("column_order", order)


def _tiles(devices: AnalogWeight, order: Tensor) -> Iterator[tuple[int, slice, slice]]:
    """Row tile, inputs and outputs of each tile."""
    inputs, size = devices.conductance.shape[2], devices.hardware.rows
    for tile in range(len(order)):
        rows = slice(tile * size, min((tile + 1) * size, inputs))
        for first in range(0, order.shape[1], devices.columns):
            yield tile, rows, slice(first, min(first + devices.columns, order.shape[1]))


def _in_logical_order(devices: AnalogWeight, stuck: Tensor, order: Tensor) -> Tensor:
    result = stuck.clone()
    for tile, rows, columns in _tiles(devices, order):
        result[:, columns, rows] = stuck[:, order[tile, columns], rows]
    return result


def _in_physical_order(devices: AnalogWeight, stuck: Tensor, order: Tensor) -> Tensor:
    return _in_logical_order(devices, stuck, order.argsort(dim=1))


def _costs(devices: AnalogWeight, relative: Tensor, stuck: Tensor) -> Tensor:
    """Squared errors ``[outputs, columns]`` of the weights of each output on each column of a tile."""
    column, row = (~stuck.isnan()).any(0).nonzero(as_tuple=True)
    cost = torch.zeros(len(relative), stuck.shape[1], dtype=torch.float64, device=relative.device)
    size = max(1, _AT_ONCE // len(relative))
    for some_columns, some_rows in zip(column.split(size), row.split(size), strict=True):
        weight = relative[:, some_rows]
        held = stuck[:, some_columns, some_rows].unsqueeze(1).expand(-1, *weight.shape)
        targets = devices.targets(weight, held) + devices.target_offset
        error = devices.cell.weight(torch.where(held.isnan(), targets, held)) - weight
        cost.index_add_(1, some_columns, error.double().square())
    return cost


def _assigned(cost: Tensor) -> Tensor:
    """A column for each output of a tile, at a cost at most that of output ``i`` on column ``i``.

    Columns choose, each the free output that suits it best, those first whose choice matters most. The exact optimum
    costs the cube of the number of columns.
    """
    outputs, own = len(cost), torch.arange(len(cost), device=cost.device)
    column_of, free = torch.full_like(own, -1), torch.zeros(outputs, dtype=cost.dtype, device=cost.device)
    faulty = cost.amax(0) > 0.0
    for column in (cost.mean(0) - cost.amin(0)).argsort(descending=True).tolist():
        if faulty[column]:
            output = (cost[:, column] + free).argmin()
            column_of[output], free[output] = column, torch.inf
    left = torch.ones_like(faulty)
    left[column_of[column_of >= 0]] = False
    stays = (column_of < 0) & left  # outputs that may stay where they are
    column_of[stays] = own[stays]
    left[own[stays]] = False
    column_of[column_of < 0] = left.nonzero().squeeze(1)
    better = cost[own, column_of].sum() < cost.diagonal().sum()
    return column_of if bool(better) else own
