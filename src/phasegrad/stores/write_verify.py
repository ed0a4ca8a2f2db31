"""Write-and-verify: pulse devices and read them in turn until they store their targets.

This is the library's only write loop; closed-loop transfers of in-memory training use it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from phasegrad.crossbar import streams
from phasegrad.crossbar.fast import Transfer
from phasegrad.stores import pulsed_array
from phasegrad.stores.device_array import DeviceArray


def write_and_verify(array: DeviceArray, relative: Tensor, rule: Transfer, now: Tensor, seed: Tensor) -> None:
    """RESET all cells, then read and pulse them in turn until they store weights in [-1, 1].

    A device beyond its target that cannot be pulsed back is RESET and written again, except in the last third of the
    attempts, because pulses must follow a RESET.
    """
    steps, parameters = array.cell.device.steps, array.step_parameters
    assert steps is not None
    assert parameters is not None
    targets = torch.maximum(array.targets(relative) + array.target_offset, parameters[2])
    up, down = array.pulsed_planes
    tolerance, offset = rule.tolerance * steps.size, streams.TRANSFER + (1 << 31)
    pulsed_array.reset(array, torch.ones_like(targets, dtype=torch.bool), now, seed, streams.RESET + 1)
    for attempt in range(rule.attempts):
        error = targets - _measure(array, rule.reads, now, seed, offset)
        below, above = error > tolerance, error < -tolerance
        counts = below[up].to(torch.int32) - (below[down] if up != down else above[up]).to(torch.int32)
        if up != down and 3 * attempt < 2 * rule.attempts:
            pulsed_array.reset(array, above, now, seed, streams.RESET + 2 + attempt)
        elif not bool(counts.any()):
            return
        pulsed_array.send_counts(array, counts, now, seed, offset + 2)
        offset += 3


def measure_weight(array: DeviceArray, reads: int, now: Tensor, seed: Tensor, offset: int) -> Tensor:
    """Measure the weights ``[out, in]`` of the cells, in [-1, 1], as the mean of reads; draw from two streams."""
    return array.cell.weight(_measure(array, reads, now, seed, offset))


def _measure(array: DeviceArray, reads: int, now: Tensor, seed: Tensor, offset: int) -> Tensor:
    """Measure every device [S] with the noise of one read over the square root of ``reads``."""
    present = array.present(now)
    if not array.cell.device.reads_are_noisy:
        return present
    return torch.lerp(present, array.read(now, seed, offset), reads**-0.5)
