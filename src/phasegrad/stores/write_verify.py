"""Write-and-verify: pulse devices and read them in turn until they store their targets.

The only write loop of the library: closed-loop transfers of in-memory training use it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from phasegrad.crossbar import streams
from phasegrad.crossbar.fast import Transfer
from phasegrad.stores.device_array import DeviceArray


def write(array: DeviceArray, relative: Tensor, rule: Transfer, now: Tensor, seed: Tensor) -> None:
    """RESET cells, and read and pulse them in turn until they hold weights in [-1, 1].

    A device that was pulsed past its target and cannot be pulsed back is RESET and tried again; in the last third of
    the attempts it stays where it is, since a RESET needs pulses after it.
    """
    steps, parameters = array.cell.device.steps, array.step_parameters
    assert steps is not None
    assert parameters is not None
    targets = torch.maximum(array.cell.targets(relative), parameters[2])
    up, down = array.pulsed_planes
    tolerance, offset = rule.tolerance * steps.size, streams.TRANSFER + (1 << 31)
    array.reset(torch.ones_like(targets, dtype=torch.bool), now)
    for attempt in range(rule.attempts):
        gap = targets - _measure(array, rule.reads, now, seed, offset)
        below, above = gap > tolerance, gap < -tolerance
        counts = below[up].to(torch.int32) - (below[down] if up != down else above[up]).to(torch.int32)
        if up != down and 3 * attempt < 2 * rule.attempts:
            array.reset(above, now)
        elif not bool(counts.any()):
            return
        array.send_counts(counts, now, seed, offset + 2)
        offset += 3


def measured(array: DeviceArray, reads: int, now: Tensor, seed: Tensor, offset: int) -> Tensor:
    """Cells ``[out, in]``, in [-1, 1], as a measurement finds them; draws from two streams."""
    return array.cell.weight(_measure(array, reads, now, seed, offset))


def _measure(array: DeviceArray, reads: int, now: Tensor, seed: Tensor, offset: int) -> Tensor:
    """Every device [S], integrated as long as so many reads take, which leaves a part of one read's noise."""
    present = array.present(now)
    if not array.cell.device.reads_are_noisy:
        return present
    return torch.lerp(present, array.read(now, seed, offset), reads**-0.5)
