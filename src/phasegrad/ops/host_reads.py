"""Whether the host may look at a value, or would wait for the device that computes it."""

from __future__ import annotations

import torch
from torch import Tensor


def waits(tensor: Tensor) -> bool:
    """Whether reading a value of a tensor on the host waits for all work on its device."""
    return tensor.is_cuda


def captured(tensor: Tensor) -> bool:
    """Whether work on the device of a tensor is captured in a CUDA graph now, and not run."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()
