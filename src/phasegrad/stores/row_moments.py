"""Mean and variance of the weights in reads, for reads that serve a single row of inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from phasegrad.cells import Cell
from phasegrad.ops.direct import call

if TYPE_CHECKING:
    from phasegrad.stores.analog_weight import AnalogWeight

_AT_ONCE = 1 << 16  # cells whose moments are computed at a time


@torch.no_grad()
def row_moments(devices: AnalogWeight) -> tuple[Tensor, Tensor] | None:
    """Mean and variance of the weights ``[out, in]``, or of their slices ``[slices, out, in]``, at the present time.

    They are computed for a few rows of devices at a time. Variances are rounded to bfloat16, which is a third less to
    read: errors of at most 0.4 %, independent of each other, average out over the inputs of a product.

    Returns:
        ``None`` if the weight is not linear in the conductances, or reads have other laws.
    """
    sliced = devices.cell.slice_factors is not None
    matrices = _linear_map(devices.cell)
    if matrices is None:
        return None
    means = devices.conductance.new_empty(len(matrices), *devices.conductance.shape[1:])
    variances = torch.empty_like(means, dtype=torch.bfloat16)
    step = max(1, _AT_ONCE // devices.conductance.shape[2])
    for first in range(0, devices.conductance.shape[1], step):
        part = slice(first, first + step)
        state = devices.state._replace(conductance=devices.conductance[:, part], nu=devices.nu[:, part])
        of_devices = devices.cell.device.read_moments(state, devices.drift_time(devices.clock))
        if of_devices is None:
            return None
        for i, factors in enumerate(matrices):
            used = [0, *(p for p, factor in enumerate(factors[1:], 1) if factor)]
            planes = [p - 1 for p in used[1:]]
            mean, sd = (m[planes] if len(planes) < len(m) else m for m in of_devices)
            scale, chosen = devices.scale[:, part], [factors[p] for p in used]
            of_cells = call("rectified_cells", mean, sd, chosen, scale, devices.hardware.rows)
            means[i, part], variances[i, part] = of_cells
    return (means, variances) if sliced else (means[0], variances[0])


def _linear_map(cell: Cell) -> list[list[float]] | None:
    """For each slice of a cell, its value without conductance, then its change per conductance of each device [1/S].

    ``None`` for a cell whose weight is not linear in its conductances.
    """
    count, window = len(cell.factors), cell.device.window
    probes = window * torch.cat((torch.zeros(count, 1), torch.eye(count)), dim=1).double()
    slices = cell.read_slices(probes)
    factors = (slices[:, 1:] - slices[:, :1]) / window
    other = window * torch.linspace(0.1, 0.9, count, dtype=torch.float64).unsqueeze(1)
    linear = torch.allclose(cell.read_slices(other), slices[:, :1] + factors @ other, 1e-9, 1e-9)
    return torch.cat((slices[:, :1], factors), dim=1).tolist() if linear else None
