"""Gradients of the ops, most of them straight-through rules.

Each is an autograd function registered at the op's Autograd key. ``torch.library.register_autograd`` would do the
same with less code and 0.1 to 0.2 ms more a call (it flattens and rebuilds all arguments), which is more than the
kernels take for a small layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from phasegrad.ops.direct import GRADIENTS, Kernel, call


def _recorded(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


class _Dac(torch.autograd.Function):
    """Inside the range the gradient passes; a clipped value's belongs to the range."""

    @staticmethod
    def forward(ctx: Any, run: Kernel, x: Tensor, range: Tensor, half: float, decay: float, keep: float) -> Tensor:
        ctx.save_for_backward(x, range)
        ctx.rule = (decay, keep)
        ctx.fetched = None
        ctx.again = lambda x, range: run(x, range, half, decay, keep)
        return run(x, range, half, decay, keep)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x, range = _fetched(ctx)
        ctx.fetched = None
        grad_x, grad_range = call("dac_backward", grad, x, range, *ctx.rule)
        return None, grad_x, grad_range, None, None, None


def _fetched(ctx: Any) -> tuple[Tensor, Tensor]:
    """What a converter keeps, asked for once a backward pass: under checkpointing it is there only once."""
    if ctx.fetched is None:
        ctx.fetched = ctx.saved_tensors
        ctx.versions = [t._version for t in ctx.fetched]
    if [t._version for t in ctx.fetched] != ctx.versions:
        raise RuntimeError(
            "dac: an input of the converter was changed in place after a backward pass through it and before another "
            "one; change a copy, or run the forward pass again"
        )
    return ctx.fetched


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
    def forward(ctx: Any, run: Kernel, settings: tuple[Any, ...], bound: Tensor, *y: Tensor) -> tuple[Tensor, Tensor]:
        v, scale, gain, input_range, *rest = settings
        out, code = run(list(y), v, scale, gain, input_range, bound, *rest)
        ctx.save_for_backward(code, scale, gain, input_range, bound)
        ctx.tiles = len(y)
        ctx.mark_non_differentiable(code)
        ctx.set_materialize_grads(False)
        return out, code

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:  # type: ignore[override]
        if grad is None:
            return (None,) * (3 + ctx.tiles)
        code, scale, gain, input_range, bound = ctx.saved_tensors
        grads: Sequence[Tensor] = [grad] * ctx.tiles
        grad_bound = None
        if len(code):
            grads = call("adc_backward", grad, code).unbind(0)
            if ctx.needs_input_grad[2]:
                grad_bound = _bound_gradient(grad, code, scale, gain, input_range, bound)
        if gain is not None:
            columns = (len(scale), 1, -1, *[1] * (grad.dim() - 2))
            grads = [g * k for g, k in zip(grads, gain.view(columns).unbind(0), strict=True)]
        return (None, None, grad_bound, *grads)


class _NoisyWeights(torch.autograd.Function):
    """Noise is a constant, and dropping too; a step down never pushes a clipped weight further out."""

    @staticmethod
    def forward(ctx: Any, run: Kernel, w: Tensor, scale: Tensor, clip: Tensor, *rest: Any) -> Tensor:
        ctx.save_for_backward(w, clip)
        ctx.others = 1 + len(rest)
        return run(w, scale, clip, *rest)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        w, clip = ctx.saved_tensors
        grad_w = call("noisy_weights_backward", grad, w, clip)
        return (None, grad_w, *[None] * (1 + ctx.others))


class _TileLinear(torch.autograd.Function):
    """The product's gradient is exact, the converter's as in :class:`_Adc`, the noise's in :class:`_NoisyWeights`.

    Inputs that come from a :class:`_Dac` are converted again for the gradient, from what that one keeps: in a deep
    net they would be as much memory as all activations.
    """

    @staticmethod
    def forward(
        ctx: Any, run: Kernel, x: Tensor, w: Tensor, bound: Tensor, rest: tuple[Any, ...], converter: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        scale, clip, level, gain, input_range, seed, *settings = rest
        out, code, read = run(x, w, scale, clip, level, gain, input_range, bound, seed, *settings)
        kept, ctx.converter = (None, converter) if converter is not None else (x, None)
        if clip is None:
            ctx.save_for_backward(code, kept, w, None, None, gain, scale, input_range, bound)
        else:
            ctx.save_for_backward(code, kept, read, w, clip, gain, scale, input_range, bound)
        ctx.rows = settings[2]
        ctx.mark_non_differentiable(code, read)
        ctx.set_materialize_grads(False)  # or zeros for the gradients of code and read, of their size, at each step
        return out, code, read

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:  # type: ignore[override]
        _, wants_x, wants_w, wants_bound = ctx.needs_input_grad[:4]
        if grad is None:
            return None, None, None, None, None, None
        code, x, read, w, clip, gain, scale, input_range, bound = ctx.saved_tensors
        if x is None:
            x = ctx.converter.again(*_fetched(ctx.converter))
        wanted = (wants_x, wants_w)
        grad_x, grad_w = call("tile_linear_backward", grad, code, x, read, w, clip, gain, ctx.rows, wanted)
        grad_bound = None
        if wants_bound and len(code):
            grad_bound = _bound_gradient(grad, code, scale, gain, input_range, bound)
        return None, grad_x if wants_x else None, grad_w if wants_w else None, grad_bound, None, None


class _WiredAdjoint(torch.autograd.Function):
    """A step of its own, to refuse a second derivative: :func:`once_differentiable` looks at the gradient alone.

    Where that is a constant, as that of a sum, a penalty on gradients would lose its part through the wires silently.
    """

    @staticmethod
    def forward(ctx: Any, grad: Tensor, conductance: Tensor, *lines: Any) -> Tensor:
        return call("wired_conductance_backward", grad, conductance, *lines)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[Any, ...]:  # type: ignore[override]
        raise RuntimeError(
            "wired_conductance: a second derivative through wires that are solved exactly; there is only the first. "
            'Wires(solve="first-order") has all of them'
        )


class _WiredConductance(torch.autograd.Function):
    """The adjoint circuit; its levels are found again, not stored."""

    @staticmethod
    def forward(ctx: Any, run: Kernel, conductance: Tensor, *lines: Any) -> Tensor:
        ctx.save_for_backward(conductance)
        ctx.lines = lines
        return run(conductance, *lines)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        (conductance,) = ctx.saved_tensors
        return None, _WiredAdjoint.apply(grad, conductance, *ctx.lines), *[None] * len(ctx.lines)


def _dac(run: Kernel, x: Tensor, range: Tensor, *rest: Any) -> Tensor:
    if _recorded(x, range):
        return _Dac.apply(run, x, range, *rest)  # type: ignore[return-value]
    return run(x, range, *rest)


def _adc(run: Kernel, y: Sequence[Tensor], v: Sequence[Tensor], *rest: Any) -> tuple[Tensor, Tensor]:
    scale, gain, input_range, bound, *settings = rest
    if _recorded(*y, bound):
        return _Adc.apply(run, (v, scale, gain, input_range, *settings), bound, *y)  # type: ignore[return-value]
    return run(y, v, *rest)


def _noisy_weights(run: Kernel, w: Tensor, *rest: Any) -> Tensor:
    if _recorded(w):
        return _NoisyWeights.apply(run, w, *rest)  # type: ignore[return-value]
    return run(w, *rest)


def _tile_linear(run: Kernel, x: Tensor, w: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    scale, clip, level, gain, input_range, bound, *settings = rest
    if _recorded(x, w, bound):
        others = (scale, clip, level, gain, input_range, *settings)
        made_by = x.grad_fn
        converter = made_by if isinstance(made_by, _Dac._backward_cls) else None  # type: ignore[attr-defined]
        return _TileLinear.apply(run, x, w, bound, others, converter)  # type: ignore[return-value]
    return run(x, w, *rest)


def _wired_conductance(run: Kernel, conductance: Tensor, *lines: Any) -> Tensor:
    if _recorded(conductance):
        return _WiredConductance.apply(run, conductance, *lines)  # type: ignore[return-value]
    return run(conductance, *lines)


GRADIENTS.update(
    dac=_dac, adc=_adc, noisy_weights=_noisy_weights, tile_linear=_tile_linear, wired_conductance=_wired_conductance
)
