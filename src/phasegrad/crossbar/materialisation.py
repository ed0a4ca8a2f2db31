"""Detection of moves that lose the values of a module, as ``to_empty`` does after a build on the meta device.

Constants that follow from the configuration are buffers, so that they move with their module. They are in no state
dict, so whatever moves a module without its values must compute them again.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor


def loses_values(fn: Callable[[Tensor], Tensor]) -> bool:
    """Whether a function that ``nn.Module._apply`` calls allocates memory without copying values.

    The function is tried on random numbers, which no memory contains by chance. Small integers survive a cast to any
    floating-point dtype.
    """
    numbers = [float(byte % 15 - 7) for byte in os.urandom(16)]
    probe = torch.tensor(numbers, dtype=torch.float32, device="cpu")
    moved = fn(probe)
    if moved.is_meta or type(moved) is not Tensor:  # no memory, or a tensor that only traces
        return False
    return moved.detach().to("cpu", torch.float32).tolist() != numbers
