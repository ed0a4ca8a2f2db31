"""Checks that several ops share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def check_floating(op: str, **tensors: Tensor) -> None:
    first = next(iter(tensors.values()))
    for name, t in tensors.items():
        if not t.dtype.is_floating_point:
            raise TypeError(f"{op}: {name} has dtype {t.dtype}; it must be a floating-point tensor")
        if t.device != first.device:
            raise ValueError(f"{op}: {name} is on {t.device}, the first argument on {first.device}; move one")


def check_seed(op: str, seed: Tensor, like: Tensor | None = None) -> None:
    if seed.dtype != torch.int64 or seed.numel() != 1:
        raise TypeError(
            f"{op}: seed has dtype {seed.dtype} and shape {list(seed.shape)}; it must be int64 with one element, "
            "such as torch.randint(-2**63, 2**63 - 1, (1,))"
        )
    if like is not None and seed.device != like.device:
        raise ValueError(f"{op}: seed is on {seed.device}, the first argument on {like.device}; move one")


def check_one(op: str, name: str, tensor: Tensor) -> None:
    if tensor.numel() != 1:
        raise ValueError(f"{op}: {name} has shape {list(tensor.shape)}; it must have one element")


def check_law(op: str, name: str, law: Sequence[float]) -> None:
    table = len(law) > 1 and law[0] == 1
    size = 2 + 2 * int(law[1]) if table else 18
    if len(law) != size or law[0] not in (0, 1) or (table and law[1] < 1):
        raise ValueError(f"{op}: {name} has {len(law)} numbers; a law of this kind has {size}")


def check_shapes(op: str, **tensors: Tensor) -> None:
    first = next(iter(tensors.values()))
    if any(t.shape != first.shape for t in tensors.values()):
        shapes = {name: list(t.shape) for name, t in tensors.items()}
        raise ValueError(f"{op}: shapes are {shapes}; they must be equal")


def broadcasts(small: Sequence[int], large: Sequence[int]) -> bool:
    """Whether a tensor of one shape expands to the other."""
    pairs = zip(reversed(small), reversed(large), strict=False)
    return len(small) <= len(large) and all(a in (1, b) for a, b in pairs)
