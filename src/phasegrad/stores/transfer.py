"""Closed-loop transfer of a weight from its fast devices to its slow ones."""

from __future__ import annotations

import torch
from torch import Tensor

from phasegrad.crossbar import streams
from phasegrad.crossbar.fast import Transfer
from phasegrad.stores.device_array import DeviceArray
from phasegrad.stores.write_verify import measured, write

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
    assert slow.max_weight is not None
    assert fast.max_weight is not None
    held = fast.cell.weight(fast.present(now)) * (fast.max_weight * polarity)
    wanted = measured(slow, rule.reads, now, seed, streams.TRANSFER) * slow.max_weight + held
    limit = rule.limit * slow.max_weight
    write(slow, wanted.clamp(-limit, limit) / slow.max_weight, rule, now, seed)
    residual = wanted - measured(slow, rule.reads, now, seed, streams.TRANSFER + 2) * slow.max_weight
    if rule.inversion:
        polarity.neg_()
    fast.program(torch.zeros_like(wanted), now, seed)
    for i in range(_ROUNDS):  # steps differ from cell to cell, so what was sent is looked at
        missing = residual * polarity - fast.cell.weight(fast.present(now)) * fast.max_weight
        fast.send_counts((missing / fast.dw_min).round_().to(torch.int32), now, seed, streams.TRANSFER + 4 + i)
