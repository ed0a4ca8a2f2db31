"""Reads of the devices of one weight, as the weight in digital units; drift compensation is not part of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from phasegrad.cells import Cell
from phasegrad.crossbar import streams
from phasegrad.crossbar.mapping import expand_scale
from phasegrad.devices import CellSum
from phasegrad.ops.direct import call
from phasegrad.stores import wired_devices

if TYPE_CHECKING:
    from phasegrad.stores.analog_weight import AnalogWeight


def mean(devices: AnalogWeight) -> Tensor:
    """The drifted weights ``[out, in]``, without read noise and wires."""
    if devices.cell.slice_factors is not None:
        return combined(devices, mean_slices(devices, devices.present(devices.clock)))
    no_seed = torch.zeros(1, dtype=torch.int64, device=devices.clock.device)
    in_one_pass = _in_one_pass_of_cells(devices, no_seed, noisy=False)
    return of_conductances(devices, devices.present(devices.clock)) if in_one_pass is None else in_one_pass


def sample(devices: AnalogWeight, seed: Tensor) -> Tensor:
    """The weights ``[out, in]`` as one read sees them through the wires."""
    if devices.cell.slice_factors is not None:
        return combined(devices, sampled_slices(devices, seed))
    sd, fast = devices.cell.device.read_sd_alone, devices.fast
    exact = fast is None or not fast.cell.device.reads_are_noisy
    if devices.max_weight is not None and exact and sd is not None and not devices.drifted(devices.clock):
        return _in_one_pass(devices, sd, seed)
    in_one_pass = _in_one_pass_of_cells(devices, seed, noisy=True)
    if in_one_pass is not None:
        return in_one_pass
    of_fast = None if fast is None else fast.read(devices.clock, seed + streams.FAST)
    return of_conductances(devices, wired_devices.through_wires(devices, devices.read(devices.clock, seed)), of_fast)


def sampled_slices(devices: AnalogWeight, seed: Tensor) -> Tensor:
    """The slices ``[slices, out, in]`` in units of the weight, as one read sees them through the wires."""
    reference = devices.reference
    of_reference = None if reference is None else reference.read(devices.clock, seed + streams.REFERENCE)
    return _slices(devices, wired_devices.through_wires(devices, devices.read(devices.clock, seed)), of_reference)


def mean_slices(devices: AnalogWeight, conductance: Tensor) -> Tensor:
    """The slices ``[slices, out, in]`` of given conductances, minus references at their present mean."""
    reference = devices.reference
    return _slices(devices, conductance, None if reference is None else reference.present(devices.clock))


def combined(devices: AnalogWeight, slices: Tensor) -> Tensor:
    """The weight ``[out, in]`` of slices ``[slices, out, in]``: their sum by significance."""
    assert devices.cell.slice_factors is not None
    return torch.tensordot(slices.new_tensor(devices.cell.slice_factors), slices, dims=1)


def of_conductances(devices: AnalogWeight, conductance: Tensor, fast: Tensor | None = None) -> Tensor:
    """The weight ``[out, in]`` of given conductances of slow devices, and of fast ones or their present mean."""
    if devices.fast is not None:
        fast = devices.fast.present(devices.clock) if fast is None else fast
        return sum_of_planes(fast, conductance, devices.factors_of_planes)
    if devices.max_weight is not None:
        return sum_of_planes(conductance, None, devices.factors)
    relative = devices.cell.weight(conductance)
    return relative * expand_scale(devices.scale, relative.shape[1], devices.hardware)


def sum_of_planes(planes: Tensor, other_planes: Tensor | None, factors: Sequence[float]) -> Tensor:
    """The weight ``[out, in]``: the weighted sum of planes of conductances and of other planes, without noise."""
    no_seed = torch.zeros(1, dtype=torch.int64, device=planes.device)  # without noise, nothing is drawn
    return call("weighted_sum", planes, other_planes, factors, (), no_seed, 0)


def _in_one_pass(devices: AnalogWeight, sd: Sequence[float], seed: Tensor) -> Tensor:
    offset, *factors = devices.factors_of_planes
    fast_planes = 0 if devices.fast is None else len(devices.fast.conductance)
    other_planes = None if devices.fast is None else devices.fast.present(devices.clock)
    planes = (offset, *factors[fast_planes:], *factors[:fast_planes])
    return call("weighted_sum", devices.conductance, other_planes, planes, sd, seed, streams.DEVICES)


def _in_one_pass_of_cells(devices: AnalogWeight, seed: Tensor, *, noisy: bool) -> Tensor | None:
    plain = type(devices.cell).weight is Cell.weight and devices.cell.slice_factors is None
    if devices.fast is not None or (noisy and devices.hardware.linear_wires is not None) or not plain:
        return None
    return devices.read_sum(devices.clock, seed, _cell_sum(devices), noisy=noisy)


def _cell_sum(devices: AnalogWeight) -> CellSum:
    rows = devices.hardware.rows
    if devices.max_weight is not None:
        return CellSum(devices.factors, None, rows)
    cell = devices.cell
    return CellSum([cell.offset, *(factor / cell.device.window for factor in cell.factors)], devices.scale, rows)


def _slices(devices: AnalogWeight, conductance: Tensor, reference: Tensor | None) -> Tensor:
    """The slices ``[slices, out, in]`` in units of the weight, minus the reference of each column."""
    slices = devices.cell.read_slices(conductance)
    if reference is not None:
        zero = devices.cell.read_slices(reference).repeat_interleave(devices.columns, dim=1)
        slices = slices - zero[:, : slices.shape[1]]
    return slices * expand_scale(devices.scale, slices.shape[-1], devices.hardware)
