"""Random streams, which make the draws of one layer call independent under one seed.

A layer call draws one seed; its ops use these offsets. From ``OUTPUT`` on, each row tile has one stream.
"""

from __future__ import annotations

import torch
from torch import Tensor

from phasegrad.ops import pulses, trains

WEIGHTS = 0  # followed by the stream of dropped weights
OUTPUT = 1 << 32
DEVICES = 2 << 32
PROGRAMMING = 3 << 32  # followed by the stream of drift exponents
LIFE = 4 << 32  # and the four streams after it: device parameters fixed at fabrication
UPDATE = 5 << 32  # trains and steps; see of_update
TRANSFER = 6 << 32  # pulses and reads of a transfer
FAST = 7 << 32  # initialisation of fast cells
CHOPPER = 8 << 32  # flips of choppers
NOISE = 9 << 32  # advance of correlated noise in time
RESET = 10 << 32  # conductances after RESET
CONVERTERS = 16 << 32  # errors of ADCs, followed by the stream of DACs
DECISIONS = 17 << 32  # noise of the decisions in ADCs
REFERENCE = 18 << 32  # reference columns
TRACKING = 19 << 32  # columns that track drift
TRACKING_OUTPUT = 20 << 32  # output noise of these columns
FAULTS = 19 << 32  # stuck devices and dead lines of the arrays of a weight

PART = 1 << 20  # streams per slice or input bit, more than the number of tiles of a matrix


def draw_seed(device: torch.device, count: int = 1) -> Tensor:
    """Draw seeds ``[count]`` from torch's generator, compatible with ``torch.manual_seed``, vmap and compile."""
    return torch.randint(-(2**63), 2**63 - 1, (count,), device=device)


def of_update(samples: int) -> int:
    """Number of streams that an update with a number of samples uses."""
    return (trains.STREAMS + 1) * -(-samples // pulses.SAMPLES_PER_BLOCK)
