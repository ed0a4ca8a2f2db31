"""Closed-loop transfer of a weight from its fast devices to its slow ones."""

from __future__ import annotations

import torch
from torch import Tensor

from phasegrad.crossbar import streams
from phasegrad.crossbar.arrays import DeviceArray
from phasegrad.crossbar.fast import Transfer

_ROUNDS = 3
"""Times that the residual is sent as counted pulses, each time what is missing still."""


def move(slow: DeviceArray, fast: DeviceArray, polarity: Tensor, rule: Transfer, now: Tensor, seed: Tensor) -> None:
    """Move all of ``slow + polarity * fast`` to the slow devices, and what they miss to the fast ones, in place.

    Args:
        slow: written anew.
        fast: starts from rest, with the residual on it.
        polarity: 1 or -1, 0-d; changes its sign if the rule inverts.
        rule: how.
        now: time [s].
        seed: of all draws.
    """
    assert slow.full is not None
    assert fast.full is not None
    held = fast.cell.weight(fast.present(now)) * (fast.full * polarity)
    wanted = measured(slow, rule.reads, now, seed, streams.TRANSFER) * slow.full + held
    limit = rule.limit * slow.full
    write(slow, wanted.clamp(-limit, limit) / slow.full, rule, now, seed)
    residual = wanted - measured(slow, rule.reads, now, seed, streams.TRANSFER + 2) * slow.full
    if rule.inversion:
        polarity.neg_()
    fast.program(torch.zeros_like(wanted), now, seed)
    for i in range(_ROUNDS):  # steps differ from cell to cell, so what was sent is looked at
        missing = residual * polarity - fast.cell.weight(fast.present(now)) * fast.full
        fast.send((missing / fast.granularity).round_().to(torch.int32), now, seed, streams.TRANSFER + 4 + i)


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
    array.clear(torch.ones_like(targets, dtype=torch.bool), now)
    for attempt in range(rule.attempts):
        gap = targets - _measure(array, rule.reads, now, seed, offset)
        below, above = gap > tolerance, gap < -tolerance
        counts = below[up].to(torch.int32) - (below[down] if up != down else above[up]).to(torch.int32)
        if up != down and 3 * attempt < 2 * rule.attempts:
            array.clear(above, now)
        elif not bool(counts.any()):
            return
        array.send(counts, now, seed, offset + 2)
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
