"""The wires of programmed devices: solved once per chip and age, and applied to each read.

Every function accepts the devices first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from phasegrad.crossbar.wires import check_conductances, over_tiles

if TYPE_CHECKING:
    from phasegrad.stores.analog_weight import AnalogWeight
    from phasegrad.stores.drift_reference import DriftReference


def make_buffers(devices: AnalogWeight | DriftReference) -> None:
    """Create the buffers of the wires, unless they exist where the conductances are."""
    present = devices._buffers.get("solved")
    if present is not None and present.device == devices.conductance.device:
        return
    for name in ("solved", "wire_sensitivity", "wire_offset"):
        blank = None if devices.hardware.linear_wires is None else torch.zeros_like(devices.conductance)
        devices.register_buffer(name, blank, persistent=False)


def through_wires(devices: AnalogWeight | DriftReference, read: Tensor) -> Tensor:
    """Conductances ``[devices, out, in]`` [S] of one read, with the wires.

    Read noise is attenuated by the voltage drop on the word line and by the current loss on the bit line.
    """
    if devices.wire_offset is None or devices.wire_sensitivity is None:
        return read
    return torch.addcmul(devices.wire_offset, read, devices.wire_sensitivity)


@torch.no_grad()
def solve(devices: AnalogWeight | DriftReference, now: Tensor) -> None:
    """Solve the wires at a time [s]; see ``AnalogWeight.solve_wires``."""
    wires = devices.hardware.linear_wires
    if wires is None:
        return
    make_buffers(devices)  # on the device of conductances that were assigned, not copied
    sensitivity, offset = devices.wire_sensitivity, devices.wire_offset
    assert devices.solved is not None
    assert sensitivity is not None
    assert offset is not None
    present = devices.present(now)
    if torch.equal(present, devices.solved):
        return
    check_conductances("wires", present, wires if wires.solve == "exact" else None)
    effective = _over_tiles(devices, present, wires.effective_unchecked)
    sensitivity.copy_(_over_tiles(devices, present, wires.sensitivity))
    offset.copy_(effective - sensitivity.double() * present.double())
    devices.solved.copy_(present)


def _over_tiles(devices: AnalogWeight | DriftReference, planes: Tensor, solve: Callable[[Tensor], Tensor]) -> Tensor:
    return over_tiles(planes.double(), devices.hardware.rows, devices.columns, solve)
