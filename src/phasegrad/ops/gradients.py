"""Gradients of the ops, most of them straight-through rules.

Each is an autograd function registered at the op's Autograd key. ``torch.library.register_autograd`` would do the
same with less code and 0.1 to 0.2 ms more a call (it flattens and rebuilds all arguments), which is more than the
kernels take for a small layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from phasegrad.ops.reference import NO_CONVERTER


def _below(op: Any, *arguments: Any) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return op(*arguments)


def _recorded(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


class _Dac(torch.autograd.Function):
    """Inside the range the gradient passes; a clipped value's belongs to the range."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, range: Tensor, half: float, decay: float, keep: float) -> Tensor:
        ctx.save_for_backward(x, range)
        ctx.rule = (decay, keep)
        return _below(torch.ops.phasegrad.dac, x, range, half, decay, keep)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x, range = ctx.saved_tensors
        grad_x, grad_range = torch.ops.phasegrad.dac_backward(grad, x, range, *ctx.rule)
        return grad_x, grad_range, None, None, None


class _TileLinear(torch.autograd.Function):
    """Exact; one tensor a gradient, where splitting and joining would copy the matrix once more."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, rows: int) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, w)
        ctx.rows = rows
        return tuple(_below(torch.ops.phasegrad.tile_linear, x, w, rows))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x, w = ctx.saved_tensors
        return (*torch.ops.phasegrad.tile_linear_backward(grads, x, w, ctx.rows), None)


class _Adc(torch.autograd.Function):
    """A clipped output passes no gradient to its tile; it is the bound times its unit, so the bound takes it."""

    @staticmethod
    def forward(ctx: Any, settings: tuple[Any, ...], bound: Tensor, *y: Tensor) -> tuple[Tensor, Tensor]:
        v, scale, gain, input_range, *rest = settings
        out, code = _below(torch.ops.phasegrad.adc, list(y), v, scale, gain, input_range, bound, *rest)
        ctx.save_for_backward(code, scale, gain, input_range, bound)
        ctx.tiles, ctx.converts = len(y), rest[4] != NO_CONVERTER
        ctx.mark_non_differentiable(code)
        return out, code

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Any, ...]:  # type: ignore[override]
        code, scale, gain, input_range, bound = ctx.saved_tensors
        columns = (len(scale), 1, -1, *[1] * (grad.dim() - 2))
        grads: Sequence[Tensor] = [grad] * ctx.tiles
        grad_bound = None
        if ctx.converts:
            grads = torch.ops.phasegrad.adc_backward(grad, code).unbind(0)
            if ctx.needs_input_grad[1]:
                unit = (scale.view(columns) * input_range.reshape(-1, *[1] * (grad.dim() - 1))).abs() * bound.sign()
                unit = unit if gain is None else unit * gain.view(columns)
                grad_bound = (grad * code * unit).sum().reshape(bound.shape).to(bound.dtype)
        if gain is not None:
            grads = [g * k for g, k in zip(grads, gain.view(columns).unbind(0), strict=True)]
        return (None, grad_bound, *grads)


class _NoisyWeights(torch.autograd.Function):
    """Noise is a constant, and dropping too; a step down never pushes a clipped weight further out."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, scale: Tensor, clip: Tensor, *rest: Any) -> Tensor:
        ctx.save_for_backward(w, clip)
        ctx.others = 1 + len(rest)
        return _below(torch.ops.phasegrad.noisy_weights, w, scale, clip, *rest)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        w, clip = ctx.saved_tensors
        grad_w = torch.ops.phasegrad.noisy_weights_backward(grad, w, clip)
        return (grad_w, *[None] * (1 + ctx.others))


def _dac(x: Tensor, range: Tensor, *rest: Any) -> Tensor:
    if _recorded(x, range):
        return _Dac.apply(x, range, *rest)  # type: ignore[return-value]
    return _below(torch.ops.phasegrad.dac, x, range, *rest)


def _tile_linear(x: Tensor, w: Tensor, rows: int) -> list[Tensor]:
    if _recorded(x, w):
        return list(_TileLinear.apply(x, w, rows))  # type: ignore[arg-type]
    return _below(torch.ops.phasegrad.tile_linear, x, w, rows)


def _adc(y: Sequence[Tensor], v: Sequence[Tensor], *rest: Any) -> tuple[Tensor, Tensor]:
    scale, gain, input_range, bound, *settings = rest
    if _recorded(*y, bound):
        return _Adc.apply((v, scale, gain, input_range, *settings), bound, *y)  # type: ignore[return-value]
    return _below(torch.ops.phasegrad.adc, y, v, *rest)


def _noisy_weights(w: Tensor, *rest: Any) -> Tensor:
    if _recorded(w):
        return _NoisyWeights.apply(w, *rest)  # type: ignore[return-value]
    return _below(torch.ops.phasegrad.noisy_weights, w, *rest)


GRADIENTS: dict[str, Callable[..., Any]] = {
    "dac": _dac,
    "tile_linear": _tile_linear,
    "adc": _adc,
    "noisy_weights": _noisy_weights,
}
