"""Straight-through gradients of rounding and of bit slicing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def straight_through(value: Tensor, like: Tensor) -> Tensor:
    """Return ``value`` with its gradient passed unchanged to ``like``, of the same shape."""
    if torch.is_grad_enabled() and like.requires_grad:
        return _StraightThrough.apply(value, like)  # type: ignore[return-value]
    return value


def bit_slice(whole: Tensor, parts: Tensor, factors: Sequence[float]) -> Tensor:
    """Return the digits ``[parts, *shape]`` of ``whole = sum_k factors[k] parts[k]`` with a gradient.

    Digits are integers and have no derivative. A small change of the whole is attributed to the smallest change of the
    digits that produces it, ``d parts[k] = factors[k] / sum(factors^2) d whole``. If all digits are converted without
    clipping, the whole receives the gradient that it would receive without slicing; a clipped digit reduces it by its
    share.

    Args:
        whole: numbers ``[*shape]``.
        parts: digits ``[parts, *shape]``.
        factors: factor of each digit.
    """
    if torch.is_grad_enabled() and whole.requires_grad:
        squares = sum(f * f for f in factors)
        return _BitSlice.apply(whole, parts, tuple(f / squares for f in factors))  # type: ignore[return-value]
    return parts


class _StraightThrough(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, like: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:  # type: ignore[override]
        return None, grad


class _BitSlice(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(whole: Tensor, parts: Tensor, shares: tuple[float, ...]) -> Tensor:
        return parts.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.shares = inputs[2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        whole = grad[0] * ctx.shares[0]
        for part, share in zip(grad[1:], ctx.shares[1:], strict=True):
            whole = torch.add(whole, part, alpha=share)
        return whole, None, None
