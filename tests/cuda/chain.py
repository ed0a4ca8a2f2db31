"""The device of these tests, and small nets and data on it."""

from __future__ import annotations

import pytest
import torch
from tests.contracts.triton_kernels import DEVICE
from torch import Tensor, nn

import phasegrad as pg

needs_kernels = pytest.mark.skipif(
    DEVICE.type == "cpu" and pg.backends()["cpu"] != "triton (interpreter)",
    reason="needs a GPU, or PHASEGRAD_BACKEND=triton for Triton's interpreter",
)


def classes(count: int = 48, features: int = 12, kinds: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Samples around one point per class, on the device, and their classes."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(kinds, features, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(kinds, (count,), generator=g)
    samples = centres[labels] + 0.3 * torch.randn(count, features, generator=g)
    return samples.to(DEVICE), labels.to(DEVICE)


def perceptron(features: int = 12, hidden: int = 16, kinds: int = 3) -> nn.Module:
    """A net of two layers with the same weights on every device."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, kinds)).to(DEVICE)


def accuracy(net: nn.Module, x: Tensor, labels: Tensor) -> float:
    """The share of samples that the net classifies as labelled."""
    with torch.no_grad():
        return (net(x).argmax(1) == labels).float().mean().item()
