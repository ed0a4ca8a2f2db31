"""Which random stream serves what, so that the draws of one layer call, under one seed, are independent.

A layer call draws one seed; its ops differ by these offsets. A stream for each row-tile follows ``OUTPUT``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from phasegrad.ops import pulses, trains

WEIGHTS = 0  # and the next one, for dropped weights
OUTPUT = 1 << 32
DEVICES = 2 << 32
PROGRAMMING = 3 << 32  # and the next one, for drift exponents
LIFE = 4 << 32  # and the next four: what a device is for life
UPDATE = 5 << 32  # trains and steps; see of_update
TRANSFER = 6 << 32  # pulses and reads of a transfer
FAST = 7 << 32  # what fast cells draw when they are made
CHOPPER = 8 << 32  # which choppers flip
NOISE = 9 << 32  # what noise that remembers takes up as time passes
CONVERTERS = 16 << 32  # errors of the ADCs, and in the next one of the DACs
DECISIONS = 17 << 32  # noise inside of ADCs
REFERENCE = 18 << 32  # what reference columns draw

PART = 1 << 20  # from one slice, or bit of the inputs, to the next: more than a matrix has tiles


def draw_seed(device: torch.device) -> Tensor:
    """A seed from torch's generator: ``torch.manual_seed`` governs it, vmap splits it, compile traces it."""
    return torch.randint(-(2**63), 2**63 - 1, (1,), device=device)


def of_update(samples: int) -> int:
    """Streams that an update by so many samples takes."""
    return (trains.STREAMS + 1) * -(-samples // pulses.SAMPLES_PER_BLOCK)
