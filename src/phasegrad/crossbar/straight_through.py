"""Gradients of what has none: rounding, and cutting a number into digits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def straight_through(value: Tensor, like: Tensor) -> Tensor:
    """``value``, whose gradient goes to ``like``, of the same shape, as if it were that."""
    if torch.is_grad_enabled() and like.requires_grad:
        return _StraightThrough.apply(value, like)  # type: ignore[return-value]
    return value


def bit_slice(whole: Tensor, parts: Tensor, factors: Sequence[float]) -> Tensor:
    """The digits ``[parts, *shape]`` that ``whole = sum_k factors[k] parts[k]`` was cut into.

    Digits are integers and have no derivative. The rule: a small change of the whole is the smallest change of the
    digits that gives it, ``d parts[k] = factors[k] / sum(factors^2) d whole``. So where all digits are converted
    without clipping the whole gets the gradient that it would get uncut, and where one is clipped, less by its share.
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
