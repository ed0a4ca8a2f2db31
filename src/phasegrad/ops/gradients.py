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


def _bound_gradient(
    grad: Tensor, code: Tensor, scale: Tensor, gain: Tensor | None, input_range: Tensor, bound: Tensor
) -> Tensor:
    """A clipped output is the bound times its unit, so the bound takes its gradient."""
    columns = (len(scale), 1, -1, *[1] * (grad.dim() - 2))
    unit = (scale.view(columns) * input_range.reshape(-1, *[1] * (grad.dim() - 1))).abs() * bound.sign()
    unit = unit if gain is None else unit * gain.view(columns)
    return (grad * code * unit).sum().reshape(bound.shape).to(bound.dtype)


class _Adc(torch.autograd.Function):
    """A clipped output passes no gradient to its tile; its gradient belongs to the bound."""

    @staticmethod
    def forward(ctx: Any, settings: tuple[Any, ...], bound: Tensor, *y: Tensor) -> tuple[Tensor, Tensor]:
        v, scale, gain, input_range, *rest = settings
        out, code = _below(torch.ops.phasegrad.adc, list(y), v, scale, gain, input_range, bound, *rest)
        ctx.save_for_backward(code, scale, gain, input_range, bound)
        ctx.tiles = len(y)
        ctx.mark_non_differentiable(code)
        return out, code

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Any, ...]:  # type: ignore[override]
        code, scale, gain, input_range, bound = ctx.saved_tensors
        grads: Sequence[Tensor] = [grad] * ctx.tiles
        grad_bound = None
        if len(code):
            grads = torch.ops.phasegrad.adc_backward(grad, code).unbind(0)
            if ctx.needs_input_grad[1]:
                grad_bound = _bound_gradient(grad, code, scale, gain, input_range, bound)
        if gain is not None:
            columns = (len(scale), 1, -1, *[1] * (grad.dim() - 2))
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


class _TileLinear(torch.autograd.Function):
    """The product's gradient is exact, the converter's as in :class:`_Adc`, the noise's in :class:`_NoisyWeights`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bound: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        scale, clip, level, gain, input_range, seed, *settings = rest
        arguments = (scale, clip, level, gain, input_range, bound, seed, *settings)
        out, code, read = _below(torch.ops.phasegrad.tile_linear, x, w, *arguments)
        perturbed = clip is not None
        ctx.save_for_backward(
            code, x, read if perturbed else w, w if perturbed else None, clip, gain, scale, input_range, bound
        )
        ctx.rows, ctx.others = settings[2], len(rest)
        ctx.mark_non_differentiable(code, read)
        return out, code, read

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Any, ...]:  # type: ignore[override]
        code, x, read, w, clip, gain, scale, input_range, bound = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        grads = torch.ops.phasegrad.tile_linear_backward(grad, code, x, read, w, clip, gain, ctx.rows, wanted[:2])
        grad_x, grad_w = (g if asked else None for g, asked in zip(grads, wanted, strict=False))
        grad_bound = None
        if wanted[2] and len(code):
            grad_bound = _bound_gradient(grad, code, scale, gain, input_range, bound)
        return (grad_x, grad_w, grad_bound, *[None] * ctx.others)


def _dac(x: Tensor, range: Tensor, *rest: Any) -> Tensor:
    if _recorded(x, range):
        return _Dac.apply(x, range, *rest)  # type: ignore[return-value]
    return _below(torch.ops.phasegrad.dac, x, range, *rest)


def _adc(y: Sequence[Tensor], v: Sequence[Tensor], *rest: Any) -> tuple[Tensor, Tensor]:
    scale, gain, input_range, bound, *settings = rest
    if _recorded(*y, bound):
        return _Adc.apply((v, scale, gain, input_range, *settings), bound, *y)  # type: ignore[return-value]
    return _below(torch.ops.phasegrad.adc, y, v, *rest)


def _noisy_weights(w: Tensor, *rest: Any) -> Tensor:
    if _recorded(w):
        return _NoisyWeights.apply(w, *rest)  # type: ignore[return-value]
    return _below(torch.ops.phasegrad.noisy_weights, w, *rest)


def _tile_linear(x: Tensor, w: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    scale, clip, level, gain, input_range, bound, *settings = rest
    if _recorded(x, w, bound):
        return _TileLinear.apply(x, w, bound, scale, clip, level, gain, input_range, *settings)  # type: ignore[return-value]
    return _below(torch.ops.phasegrad.tile_linear, x, w, *rest)


GRADIENTS: dict[str, Callable[..., Any]] = {
    "dac": _dac,
    "adc": _adc,
    "noisy_weights": _noisy_weights,
    "tile_linear": _tile_linear,
}
