"""Conductances of a layer's devices, summed, at the layer's present age."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from phasegrad.nn import AnalogLayer
from phasegrad.stores.analog_weight import AnalogWeight
from phasegrad.stores.device_array import DeviceArray
from phasegrad.stores.digital import programming_target

_AT_ONCE = 1 << 18
"""Cells whose conductances are computed at a time, so that an estimate needs little memory."""


class Conductance(NamedTuple):
    """The sum of the conductances of all devices of a layer, reference columns included."""

    total: float
    """Sum [S]."""
    origin: str
    """Where it is from: ``"devices"``, at the age of the chip, or ``"targets"`` of digital weights."""


@torch.no_grad()
def conductance(layer: AnalogLayer) -> Conductance | None:
    """The conductance of a layer's devices; ``None`` for a layer without values, as on the meta device.

    Digital weights have the conductances that programming aims at, without its errors.

    Args:
        layer: the layer, whose devices are read without noise.
    """
    if layer.weight.is_meta:
        return None
    layer.take_writes()
    devices = layer.devices
    if devices is not None:
        return Conductance(_of_devices(devices), "devices")
    return Conductance(_of_targets(layer), "targets")


def _of_devices(devices: AnalogWeight) -> float:
    arrays: list[DeviceArray | None] = [devices, devices.fast, devices.reference]
    return sum(_of_array(array, devices.clock) for array in arrays if array is not None)


def _of_array(array: DeviceArray, clock: Tensor) -> float:
    """The sum of one array, some rows of cells at a time."""
    stored, total = array.conductance, 0.0
    if not array.drifted(clock):
        return float(stored.sum(dtype=torch.float64))
    since, step = array.drift_time(clock), max(1, _AT_ONCE // (stored.shape[0] * stored.shape[2]))
    for first in range(0, stored.shape[1], step):
        part = slice(first, first + step)
        state = array.state._replace(conductance=stored[:, part], nu=array.nu[:, part])
        if state.noise is not None:
            state = state._replace(noise=state.noise[:, :, part])
        age = since if since.dim() == 0 else since[:, part]
        total += float(array.cell.device.drift(state, age).sum(dtype=torch.float64))
    return total


def _of_targets(layer: AnalogLayer) -> float:
    """The sum of the targets of a digital weight, some outputs at a time."""
    target, hardware, total = programming_target(layer), layer.hardware, 0.0
    scale = torch.where(target.scale > 0, target.scale, torch.ones_like(target.scale)).float()
    step = max(1, _AT_ONCE // (layer.in_features * len(hardware.cell.factors)))
    for first in range(0, layer.out_features, step):
        part = slice(first, first + step)
        weight, of_part = target.weight[part].float(), scale[:, part]
        wide = of_part.t().repeat_interleave(hardware.rows, dim=1)[:, : layer.in_features]
        total += float(hardware.cell.targets(weight / wide).sum(dtype=torch.float64))
    if hardware.cell.has_reference:
        references = -(-layer.out_features // layer.columns) * layer.in_features
        total += references * float(hardware.cell.targets(torch.zeros(1)).sum())
    return total
