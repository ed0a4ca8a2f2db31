"""Closed-loop transfer of a weight from its fast devices to its slow ones."""

from __future__ import annotations

import torch
from torch import Tensor

from phasegrad.crossbar import streams
from phasegrad.crossbar.fast import Transfer
from phasegrad.stores import pulsed_array
from phasegrad.stores.device_array import DeviceArray
from phasegrad.stores.programming.strategies import SetCounts
from phasegrad.stores.programming.write_verify import WriteVerify

_ROUNDS = 3
"""Number of times that the remaining residual is sent as counted pulses."""


def closed_loop_transfer(
    slow: DeviceArray, fast: DeviceArray, polarity: Tensor, rule: Transfer, now: Tensor, seed: Tensor
) -> None:
    """Write ``slow + polarity * fast`` to the slow devices and the residual to the fast ones, in place.

    Args:
        slow: the slow devices, which are RESET and written again.
        fast: the fast devices, which are programmed to 0 before they receive the residual.
        polarity: 1 or -1, 0-d; it changes its sign if the rule inverts.
        rule: reads, attempts, tolerance, limit, and inversion.
        now: time [s].
        seed: seed of all draws.
    """
    assert slow.max_weight is not None
    assert fast.max_weight is not None
    fast_weight = fast.cell.weight(fast.present(now)) * (fast.max_weight * polarity)
    target = _measure_weight(slow, rule.reads, now, seed, streams.TRANSFER) * slow.max_weight + fast_weight
    limit = rule.limit * slow.max_weight
    _write(slow, target.clamp(-limit, limit) / slow.max_weight, rule, now, seed)
    residual = target - _measure_weight(slow, rule.reads, now, seed, streams.TRANSFER + 2) * slow.max_weight
    if rule.inversion:
        polarity.neg_()
    fast.program(torch.zeros_like(target), now, seed)
    for i in range(_ROUNDS):  # steps differ from cell to cell, so each round corrects the error of the one before
        missing = residual * polarity - fast.cell.weight(fast.present(now)) * fast.max_weight
        # A residual beyond the fast window leaves its devices at their bound.
        counts = (missing / fast.dw_min).round_().clamp_(-fast.most_pulses, fast.most_pulses).to(torch.int32)
        pulsed_array.send_counts(fast, counts, now, seed, streams.TRANSFER + 4 + i)


def _write(slow: DeviceArray, relative: Tensor, rule: Transfer, now: Tensor, seed: Tensor) -> None:
    """Write weights in [-1, 1] to the slow devices."""
    steps = slow.cell.device.steps
    assert steps is not None
    tolerance, (outputs, inputs) = rule.tolerance * steps.size, relative.shape
    method = WriteVerify(
        strategy=SetCounts(), iterations=rule.attempts, tolerance=tolerance, reads=rule.reads, bits=None
    )
    method.write(slow, relative, now, seed, (inputs, outputs))


def _measure_weight(array: DeviceArray, reads: int, now: Tensor, seed: Tensor, offset: int) -> Tensor:
    """Measure the weights ``[out, in]`` of the cells, in [-1, 1], as the mean of reads; draw from two streams."""
    present = array.present(now)
    if array.cell.device.reads_are_noisy:
        present = torch.lerp(present, array.read(now, seed, offset), reads**-0.5)
    return array.cell.weight(present)
