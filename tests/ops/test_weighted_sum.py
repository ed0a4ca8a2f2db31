"""The weighted sum of planes of devices, read with noise and without."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.contracts.op import SEED, Call, KernelContract, draw, seed_errors
from torch import Tensor

OFFSET = 7


def planes(*shape: int, seed: int) -> Tensor:
    return draw(*shape, seed=seed).abs()


class TestWeightedSum(KernelContract):
    name = "weighted_sum"
    rtol = 1e-5
    atol = 1e-6
    opchecked = ("pair, noisy", "with others")

    def samples(self) -> dict[str, Call]:
        pair, sd = planes(2, 21, 37, seed=1), [0.13, 0.03]
        return {
            "one plane": (pair[:1], None, [-1.0, 2.0], [], SEED, OFFSET),
            "pair": (pair, None, [0.0, 1.5, -1.5], [], SEED, OFFSET),
            "pair, noisy": (pair, None, [0.1, 1.5, -1.5], sd, SEED, OFFSET),
            "quadratic noise": (pair, None, [0.1, 1.5, -1.5], [0.1, -0.05, 0.02], SEED, OFFSET),
            "with others": (pair, planes(1, 21, 37, seed=2), [0.1, 1.5, -1.5, 0.7], sd, SEED, OFFSET),
            "large": (planes(2, 130, 300, seed=3), planes(3, 130, 300, seed=4), [0.0, 1, -1, 2, 3, -4], sd, SEED, 0),
            "one device": (planes(1, 1, 1, seed=5), None, [0.0, 1.0], sd, SEED, OFFSET),
            "nothing": (planes(2, 0, 37, seed=6), None, [0.0, 1.0, 1.0], sd, SEED, OFFSET),
        }

    def truth(self, *call: Any) -> Tensor:
        g, others, (offset, *factors), sd, seed, stream = call
        c = [*sd, 0.0, 0.0, 0.0]
        total = torch.full(g.shape[1:], offset, dtype=torch.float64)
        for i, plane in enumerate(g):
            v = plane.double()
            if sd:
                z = torch.ops.phasegrad.normal(seed, stream + i, plane.shape).double()
                v = (v + (c[0] + c[1] * v + c[2] * v**2) * z).clamp(min=0.0)
            total += factors[i] * v
        for i, plane in enumerate(() if others is None else others):
            total += factors[len(g) + i] * plane.double()
        return total


@pytest.mark.parametrize("g", [0.1, 0.5, 3.0])
def test_noise_and_floor(g: float) -> None:
    """``E max(g + s xi, 0)`` and its spread, with ``s = 0.13 + 0.03 g``."""
    n = 400_000
    s = 0.13 + 0.03 * g
    seen = torch.ops.phasegrad.weighted_sum(torch.full((1, 1, n), g), None, [0.0, 1.0], [0.13, 0.03], SEED, 0).double()
    a = g / s
    density, part = math.exp(-a * a / 2.0) / math.sqrt(2.0 * math.pi), 0.5 * (1.0 + math.erf(a / math.sqrt(2.0)))
    mean = g * part + s * density
    sd = math.sqrt((g * g + s * s) * part + g * s * density - mean * mean)
    assert abs(seen.mean().item() - mean) < 5.0 * sd / math.sqrt(n)
    assert abs(seen.std().item() / sd - 1.0) < 5.0 * math.sqrt(3.0 / n)  # a clipped normal's kurtosis lies below 4


WRONG = {
    **seed_errors((planes(2, 3, 4, seed=1), None, [0.0, 1.0, 1.0], [], SEED, 0), 4),
    "factors": ((planes(2, 3, 4, seed=1), None, [0.0, 1.0], [], SEED, 0), ValueError, "factors has 2 numbers"),
    "dtype": ((planes(2, 3, 4, seed=1).double(), None, [0.0, 1.0, 1.0], [], SEED, 0), ValueError, "float64"),
    "others": (
        (planes(2, 3, 4, seed=1), planes(1, 3, 5, seed=1), [0.0, 1.0, 1.0, 1.0], [], SEED, 0), ValueError,
        "other_planes is",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), WRONG.values(), ids=list(WRONG))
def test_refuses(call: Call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        torch.ops.phasegrad.weighted_sum(*call)
