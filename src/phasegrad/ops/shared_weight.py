"""A weight that several products share, such as the steps of a sequence, and whose gradient is summed in place.

Autograd adds the gradients of products out of place, each in memory of its own: for the steps of a sequence, whose
samples are few, that takes half as long as the products themselves.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from phasegrad.ops.direct import bypasses


class _Shared(torch.autograd.Function):
    """The same weight, at whose node the backward passes of its products meet.

    A product adds its gradient to ``sums`` and passes nothing on. Autograd runs this node after all of them. The sums
    belong to one backward pass each, because an exception may stop a pass, and threads may run several.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        ctx.sums = {}
        ctx.set_materialize_grads(False)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Tensor | None:  # type: ignore[override]
        total = ctx.sums.pop(torch._C._current_graph_task_id(), None)
        if grad is None or total is None:
            return total if grad is None else grad
        return total + grad


_NODE: type = _Shared._backward_cls  # type: ignore[attr-defined]


def shared(weight: Tensor) -> Tensor:
    """The weight, for several products; the sum of their gradients is computed in place."""
    if torch.is_grad_enabled() and weight.requires_grad and bypasses():
        return _Shared.apply(weight)  # type: ignore[return-value]
    return weight


def running_sum(node: Any, weight: Tensor) -> Tensor | None:
    """The tensor to which a product adds its gradient of a shared weight, in the present backward pass.

    Args:
        node: the node of autograd that receives the gradient of the product's weight.
        weight: the weight.

    Returns:
        The sum; ``None`` if the gradient must be returned: the weight is not shared, the gradient is differentiated
        again, or this pass asks for other gradients only.
    """
    if type(node) is not _NODE or torch.is_grad_enabled() or not _runs(node):
        return None
    sums, task = node.sums, torch._C._current_graph_task_id()
    if task not in sums:
        sums[task] = torch.zeros_like(weight, memory_format=torch.contiguous_format)
    return sums[task]


def _runs(node: Any) -> bool:
    """Whether the present backward pass runs a node."""
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # the pass returns what this node receives
        return False
