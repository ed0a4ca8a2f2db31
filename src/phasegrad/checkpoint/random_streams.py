"""States of all global random streams: those of torch on every device in use, of numpy and of Python."""

from __future__ import annotations

import logging
import random
from typing import Any

import numpy as np
import torch

_logger = logging.getLogger("phasegrad")
_NUMPY = np.random
"""Imported by this line, not by the first save: its import loses an interrupt (Ctrl-C)."""


def states() -> dict[str, Any]:
    """The present states as plain data."""
    _, key, position, has_normal, normal = _NUMPY.get_state()
    numpy = [torch.from_numpy(np.asarray(key).astype(np.int64)), int(position), int(has_normal), float(normal)]
    found: dict[str, Any] = {"torch": torch.get_rng_state(), "numpy": numpy, "python": random.getstate()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        found["mps"] = torch.mps.get_rng_state()
    return found


def restore(found: dict[str, Any]) -> None:
    """Restore the states of ``states``."""
    torch.set_rng_state(found["torch"])
    key, *rest = found["numpy"]
    _NUMPY.set_state(("MT19937", key.numpy().astype(np.uint32), *rest))
    version, state, normal = found["python"]
    random.setstate((version, tuple(state), normal))
    if "cuda" in found:
        _restore_cuda(found["cuda"])
    if "mps" in found and torch.backends.mps.is_available():
        torch.mps.set_rng_state(found["mps"])


def _restore_cuda(states: list[torch.Tensor]) -> None:
    count = torch.cuda.device_count()
    if count != len(states):
        _logger.warning(
            "the checkpoint has random streams for %d CUDA devices, but this machine has %d: their draws will differ",
            len(states), count,
        )  # fmt: skip
    for index, state in enumerate(states[:count]):
        torch.cuda.set_rng_state(state, index)
