"""Gradients of the ops, most of them straight-through rules.

Each is an autograd function registered at the op's Autograd key. ``torch.library.register_autograd`` would need less
code, but 0.1 to 0.2 ms more per call (it flattens and rebuilds all arguments), which is more than the kernels need for
a small layer.

Gradients can be differentiated again, as gradient penalties do: what the first gradient treats as a constant (masks of
clipping, noise, scales) is a constant in all higher ones too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from phasegrad.ops import reference
from phasegrad.ops.direct import GRADIENTS, Kernel, call
from phasegrad.ops.shared_weight import running_sum

_WEIGHT = 2  # place of the weight among the tensors that ``_TileLinear`` is applied to


def _recorded(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


class _Dac(torch.autograd.Function):
    """Inside the range the gradient passes; where inputs are clipped, it goes to the range."""

    @staticmethod
    def forward(ctx: Any, run: Kernel, x: Tensor, range: Tensor, max_code: float, decay: float, keep: float) -> Tensor:
        ctx.save_for_backward(x, range)
        ctx.rule = (decay, keep)
        return run(x, range, max_code, decay, keep)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x, range = ctx.saved_tensors
        grad_x, grad_range = call("dac_backward", grad, x, range, *ctx.rule)
        return None, grad_x, grad_range, None, None, None


def bound_gradient(
    grad: Tensor, code: Tensor, scale: Tensor, gain: Tensor | None, input_range: Tensor, bound: Tensor
) -> Tensor:
    """A clipped output equals range x unit; its gradient goes to the range."""
    columns = (len(scale), 1, -1, *[1] * (grad.dim() - 2))
    unit = (scale.view(columns) * input_range.detach().reshape(-1, *[1] * (grad.dim() - 1))).abs() * bound.sign()
    unit = unit if gain is None else unit * gain.view(columns)
    return (grad * code * unit).sum().reshape(bound.shape).to(bound.dtype)


class _Adc(torch.autograd.Function):
    """A clipped output passes no gradient to its tile; its gradient goes to the bound."""

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
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:  # type: ignore[override]
        if grad is None:
            return (None,) * (3 + ctx.tiles)
        code, scale, gain, input_range, bound = ctx.saved_tensors
        grads: Sequence[Tensor] = [grad] * ctx.tiles
        grad_bound = None
        if len(code):
            grads = call("adc_backward", grad, code).unbind(0)
            if ctx.needs_input_grad[2]:
                grad_bound = bound_gradient(grad, code, scale, gain, input_range, bound)
        if gain is not None:
            columns = (len(scale), 1, -1, *[1] * (grad.dim() - 2))
            grads = [g * k for g, k in zip(grads, gain.view(columns).unbind(0), strict=True)]
        return (None, None, grad_bound, *grads)


def _by_tile(grad: Tensor, code: Tensor, gain: Tensor | None) -> Tensor:
    """The gradients ``[tiles, samples, out]`` of the outputs of tiles; one for all if they are the same."""
    by_tile = call("adc_backward", grad, code) if len(code) else grad.unsqueeze(0)
    return by_tile if gain is None else by_tile * gain.unsqueeze(1)


def _add_weight_gradient(total: Tensor, by_tile: Tensor, x: Tensor, rows: int) -> None:
    """Add the gradient of a matrix ``[out, in]`` to a sum; each tile has ``rows`` inputs."""
    rows = rows if len(by_tile) > 1 else x.shape[1]
    for g, a, part in zip(by_tile, x.split(rows, dim=1), total.split(rows, dim=1), strict=True):
        part.addmm_(g.t(), a)


class _NoisyWeights(torch.autograd.Function):
    """Noise and dropped weights count as constants; a descent step never pushes a clipped weight further out."""

    @staticmethod
    def forward(ctx: Any, run: Kernel, w: Tensor, scale: Tensor, clip: Tensor, *rest: Any) -> Tensor:
        ctx.save_for_backward(w, clip)
        ctx.others = 1 + len(rest)
        return run(w, scale, clip, *rest)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        w, clip = ctx.saved_tensors
        grad_w = call("noisy_weights_backward", grad, w, clip)
        return (None, grad_w, *[None] * (1 + ctx.others))


class _AsRead(torch.autograd.Function):
    """The weights as they were read, connected with those they were read from by the rule of ``_NoisyWeights``."""

    @staticmethod
    def forward(ctx: Any, read: Tensor, w: Tensor, clip: Tensor) -> Tensor:
        ctx.save_for_backward(w, clip)
        return read.view_as(read)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        return None, call("noisy_weights_backward", grad, *ctx.saved_tensors), None


class _TileLinear(torch.autograd.Function):
    """The product's gradient is exact; the converters' are those of ``_Dac`` and ``_Adc``.

    The gradient through noisy weights is that of ``_NoisyWeights``. Inputs are saved unconverted, because the
    preceding layer stores them anyway, and converted again in the backward pass: in a deep net, converted copies would
    need as much memory as all activations.
    """

    @staticmethod
    def forward(
        ctx: Any, run: Kernel, x: Tensor, input_range: Tensor, w: Tensor, bound: Tensor, rest: tuple[Any, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        scale, clip, level, gain, dac_max_code, decay, keep, *settings = rest
        dac = (dac_max_code, decay, keep)
        out, code, read = run(x, w, scale, clip, level, gain, input_range, *dac, bound, *settings)
        if clip is None:
            ctx.save_for_backward(code, x, w, None, None, gain, scale, input_range, bound)
        else:
            ctx.save_for_backward(code, x, read, w, clip, gain, scale, input_range, bound)
        ctx.dac, ctx.rows = dac, settings[3]
        ctx.mark_non_differentiable(code, read)
        ctx.set_materialize_grads(False)  # otherwise each step allocates zeros of the size of code and read
        return out, code, read

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:  # type: ignore[override]
        _, wants_x, wants_range, wants_w, wants_bound = ctx.needs_input_grad[:5]
        if grad is None:
            return (None,) * 6
        code, x, read, w, clip, gain, scale, input_range, bound = ctx.saved_tensors
        max_code, *rule = ctx.dac
        converts = max_code > 0
        driven = call("dac", x, input_range, max_code, *rule).to(x.dtype) if converts else x  # autocast gives float32
        if clip is not None and _recorded(w):  # with create_graph=True
            read = _AsRead.apply(read, w, clip)
        grad_range = grad_bound = None
        if wants_bound and len(code):
            grad_bound = bound_gradient(grad, code, scale, gain, input_range, bound)
        total = running_sum(ctx.next_functions[_WEIGHT][0], read) if wants_w and clip is None else None
        if total is not None:
            wants_w, by_tile = False, _by_tile(grad, code, gain)
            _add_weight_gradient(total, by_tile, driven, ctx.rows)
            if len(by_tile) == 1:
                grad, code, gain = by_tile[0], code.flatten()[:0], None
        wanted = (wants_x or (converts and wants_range), wants_w)
        grad_x, grad_w = call("tile_linear_backward", grad, code, driven, read, w, clip, gain, ctx.rows, wanted)
        if converts and wanted[0]:
            grad_x, grad_range = call("dac_backward", grad_x, x, input_range, *rule)
        return None, grad_x if wants_x else None, grad_range, grad_w if wants_w else None, grad_bound, None


class _Again(torch.autograd.Function):
    """The kernel of a gradient, differentiated through its definition in plain torch, which is computed again."""

    @staticmethod
    def forward(ctx: Any, run: Kernel, definition: Kernel, arguments: tuple[Any, ...], *tensors: Tensor) -> Any:
        ctx.save_for_backward(*tensors)
        ctx.definition, ctx.arguments = definition, arguments
        ctx.set_materialize_grads(False)
        return run(*_filled(arguments, tensors))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:  # type: ignore[override]
        wants = ctx.needs_input_grad[3:]
        with torch.enable_grad():
            tensors = [t.view_as(t) if wanted else t for t, wanted in zip(ctx.saved_tensors, wants, strict=True)]
            results = ctx.definition(*_filled(ctx.arguments, tensors))
        results = results if isinstance(results, tuple) else (results,)
        pairs = [(r, g) for r, g in zip(results, grads, strict=True) if g is not None and r.requires_grad]
        found: list[Tensor | None] = [None] * len(tensors)
        if pairs:
            wanted = [i for i, w in enumerate(wants) if w]
            outputs, given = zip(*pairs, strict=True)
            again = torch.is_grad_enabled()
            gradients = torch.autograd.grad(
                outputs, [tensors[i] for i in wanted], given, create_graph=again, allow_unused=True
            )
            for i, gradient in zip(wanted, gradients, strict=True):
                found[i] = gradient
        return None, None, None, *found


_TENSOR = object()  # the place of a tensor among the arguments of an op


def _filled(arguments: Sequence[Any], tensors: Sequence[Tensor]) -> list[Any]:
    rest = iter(tensors)
    return [next(rest) if a is _TENSOR else a for a in arguments]


class _WiredAdjoint(torch.autograd.Function):
    """Separate node that raises on second derivatives, because ``once_differentiable`` checks only the gradient.

    If the gradient is a constant, as that of a sum is, a gradient penalty would silently omit the contribution of
    the wires.
    """

    @staticmethod
    def forward(ctx: Any, grad: Tensor, conductance: Tensor, *resistances: Any) -> Tensor:
        return call("wired_conductance_backward", grad, conductance, *resistances)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[Any, ...]:  # type: ignore[override]
        raise RuntimeError(
            "wired_conductance: a second derivative through wires that are solved exactly; there is only the first. "
            'Wires(solve="first-order") has all of them'
        )


class _WiredConductance(torch.autograd.Function):
    """The gradient from the adjoint circuit; its levels are computed again, not stored."""

    @staticmethod
    def forward(ctx: Any, run: Kernel, conductance: Tensor, *resistances: Any) -> Tensor:
        ctx.save_for_backward(conductance)
        ctx.resistances = resistances
        return run(conductance, *resistances)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        (conductance,) = ctx.saved_tensors
        return None, _WiredAdjoint.apply(grad, conductance, *ctx.resistances), *[None] * len(ctx.resistances)


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
    scale, clip, level, gain, input_range, dac_max_code, decay, keep, bound, *settings = rest
    if _recorded(x, w, bound) or (dac_max_code > 0 and _recorded(input_range)):
        others = (scale, clip, level, gain, dac_max_code, decay, keep, *settings)
        return _TileLinear.apply(run, x, input_range, w, bound, others)  # type: ignore[return-value]
    return run(x, w, *rest)


def _differentiable_again(definition: Kernel) -> Callable[..., Any]:
    """The gradient of an op that is itself the gradient of another."""

    def op(run: Kernel, *arguments: Any) -> Any:
        if not torch.is_grad_enabled():
            return run(*arguments)
        tensors = [a for a in arguments if isinstance(a, Tensor)]
        if not _recorded(*tensors):
            return run(*arguments)
        places = tuple(_TENSOR if isinstance(a, Tensor) else a for a in arguments)
        return _Again.apply(run, definition, places, *tensors)

    return op


def _wired_conductance(run: Kernel, conductance: Tensor, *resistances: Any) -> Tensor:
    if _recorded(conductance):
        return _WiredConductance.apply(run, conductance, *resistances)  # type: ignore[return-value]
    return run(conductance, *resistances)


GRADIENTS.update(
    dac=_dac, adc=_adc, noisy_weights=_noisy_weights, tile_linear=_tile_linear, wired_conductance=_wired_conductance
)
for _definition in (
    reference.dac_backward, reference.adc_backward, reference.noisy_weights_backward, reference.tile_linear_backward,
):  # fmt: skip
    GRADIENTS[_definition.__name__] = _differentiable_again(_definition)
