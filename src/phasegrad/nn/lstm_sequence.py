"""All steps of an LSTM in one node of autograd, where one fused op computes the product of a step.

Otherwise autograd records and runs some twenty operations per step, which takes as long as the products. Here a step
of the forward pass has ten and one of the backward pass seven. What does not depend on the neighbouring step is
computed for all steps at once: the slopes of the gates, and the gradients of the weight, the bias and the ADC's range.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from phasegrad.crossbar.fused_product import FusedProduct


def lstm_sequence(
    inputs: Tensor, hidden: Tensor, cell: Tensor, product: FusedProduct, bias: Tensor | None, seeds: Tensor
) -> tuple[Tensor, Tensor]:
    """The hidden and cell states ``[length, batch, size]`` after each step, as ``gates.lstm`` computes them.

    Args:
        inputs: products of the inputs ``[length, batch, 4 size]``.
        hidden: the first hidden state ``[batch, size]``.
        cell: the first cell state ``[batch, size]``.
        product: the product of the hidden state.
        bias: ``[4 size]``, added to the product of the hidden state, or ``None``.
        seeds: one seed per step.
    """
    arguments = (inputs, hidden, cell, *product.tensors[:3], bias)
    states, cells, *_ = _Lstm.apply(product, seeds, *arguments)  # type: ignore[misc]
    return states, cells


class _Lstm(torch.autograd.Function):
    """The gates and ``tanh(cell)`` are outputs too: the backward pass is a function of them, and differentiable."""

    @staticmethod
    def forward(
        ctx: Any, product: FusedProduct, seeds: Tensor, inputs: Tensor, hidden: Tensor, cell: Tensor, weight: Tensor,
        input_range: Tensor, output_range: Tensor, bias: Tensor | None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        first, size, multiply = (hidden, cell), hidden.shape[1], product.repeated()
        gates, codes = torch.empty_like(inputs, memory_format=torch.contiguous_format), []
        states, cells, bounded = inputs.new_empty(3, len(inputs), *hidden.shape).unbind()
        columns = (gates, gates[..., : 2 * size], *gates.split(size, dim=2))
        steps = zip(seeds.split(1), inputs, *columns, states, cells, bounded, strict=True)
        for seed, x, total, input_and_forget, i, f, candidate, o, state, next_cell, tanh_cell in steps:
            y, code = multiply(hidden, seed)
            codes.append(code)
            torch.add(x, y if bias is None else y.add_(bias), out=total)
            input_and_forget.sigmoid_()
            candidate.tanh_()
            o.sigmoid_()
            torch.mul(f, cell, out=next_cell).addcmul_(i, candidate)
            torch.mul(o, torch.tanh(next_cell, out=tanh_cell), out=state)
            hidden, cell = state, next_cell
        code = torch.stack(codes, dim=1) if codes[0].dim() > 1 else codes[0]
        ctx.save_for_backward(*first, *product.tensors, states, cells, gates, bounded, code)
        ctx.settings = product.settings
        ctx.mark_non_differentiable(code)
        ctx.set_materialize_grads(False)
        return states, cells, gates, bounded, code

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:  # type: ignore[override]
        hidden, cell, *tensors, states, cells, gates, bounded, code = ctx.saved_tensors
        product = FusedProduct(tuple(tensors), ctx.settings)
        hidden, cell = torch.cat([hidden.unsqueeze(0), states[:-1]]), torch.cat([cell.unsqueeze(0), cells[:-1]])
        driven = product.driven(hidden.flatten(0, 1))
        inputs = (hidden, driven.view(hidden.shape), cell)
        d, first, range_gradient = _through_steps(product, grads, inputs, gates, bounded, code)
        wants = ctx.needs_input_grad[5:]
        by_row = (d.flatten(0, 1), code.flatten(1, 2) if len(code) else code)
        weight = product.weight_gradient(*by_row, driven) if wants[0] else None
        bound = product.bound_gradient(*by_row) if wants[2] else None
        bias = d.sum((0, 1)) if wants[3] else None
        return None, None, d, *first, weight, range_gradient if wants[1] else None, bound, bias


def _through_steps(
    product: FusedProduct, grads: tuple[Tensor | None, ...], before: tuple[Tensor, Tensor, Tensor], gates: Tensor,
    bounded: Tensor, code: Tensor,
) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor | None]:  # fmt: skip
    """Gradients of the products of all steps, of the first states, and of the input range.

    ``before`` are the states before each step: hidden states, the same after the DAC, cell states.
    """
    hidden, driven, cell = before
    of_states, of_cells, of_gates, of_bounded, _ = grads
    i, f, candidate, o = gates.chunk(4, dim=2)
    slope_of_bounded = 1.0 - bounded.square()
    slopes = [i - i * i, f - f * f, 1.0 - candidate.square(), o - o * o]
    factors = torch.cat([s * k for s, k in zip(slopes, (candidate, cell, i, bounded), strict=True)], dim=2)
    added = None if of_gates is None else of_gates * torch.cat(slopes, dim=2)
    if of_bounded is not None:
        of_bounded = of_bounded * slope_of_bounded
        of_cells = of_bounded if of_cells is None else of_cells + of_bounded
    recorded, found, of_range = torch.is_grad_enabled(), [], None
    to_cell = o * slope_of_bounded
    d_hidden = d_cell = torch.zeros_like(hidden[0])
    for t in reversed(range(len(gates))):
        d_hidden = d_hidden if of_states is None else d_hidden + of_states[t]
        d_cell = d_cell if of_cells is None else d_cell + of_cells[t]
        d_cell = torch.addcmul(d_cell, d_hidden, to_cell[t])
        sources = torch.cat([d_cell, d_cell, d_cell, d_hidden], dim=1)
        d = factors[t] * sources if recorded else factors[t].mul_(sources)
        d = d if added is None else d + added[t]
        found.append(d)
        d_hidden, of_step = product.input_gradient(d, code[:, t] if len(code) else code, hidden[t], driven[t])
        of_range = of_step if of_range is None or of_step is None else of_range + of_step
        d_cell = d_cell * f[t]
    whole = torch.stack(found[::-1]) if recorded or added is not None else factors
    return whole, (d_hidden, d_cell), of_range
