"""Samples that the contracts draw, and how far they may deviate from a law."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from phasegrad.devices import DeviceState

SEED = torch.tensor([7])
BOUND = 5.0
"""Standard errors by which a sample may deviate from its law."""


def at_age(seconds: float) -> Tensor:
    """An age as devices expect it: float64 ``[1]`` [s]."""
    return torch.tensor([seconds], dtype=torch.float64)


def tensors(state: DeviceState) -> list[Tensor]:
    """The tensors of a device state."""
    return [t for t in state if t is not None]


def same_bits(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether tensors are equal bit by bit: NaN equals the same NaN, and 0 differs from -0."""
    pairs = zip(some, others, strict=True)
    return all(a.dtype == b.dtype and a.shape == b.shape and _bytes(a) == _bytes(b) for a, b in pairs)


def _bytes(t: Tensor) -> bytes:
    return t.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def standard_errors(sample: Tensor, mean: float, sd: float) -> float:
    """Deviation of the mean of a sample from its law, in standard errors; of all values where ``sd`` is 0."""
    sample = sample.double()
    if sd == 0.0:
        return float((sample / mean - 1.0).abs().max() / 1e-6) if mean else float(sample.abs().max())
    return abs(sample.mean().item() - mean) * math.sqrt(sample.numel()) / sd
