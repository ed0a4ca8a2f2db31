"""A weight that lives on devices and is trained there.

The parameter that a layer registers holds what the devices stand for. It never gets a dense gradient: the backward
pass stages inputs and output gradients, and :class:`phasegrad.optim.AnalogSGD` turns them into pulses.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.optim.optimizer import register_optimizer_step_pre_hook

from phasegrad.crossbar.stores import Devices

_ADVICE = (
    "This weight lives on devices, which take pulses and no additions. Train it with "
    "phasegrad.optim.AnalogSGD(net.parameters(), lr=...), which trains the digital parameters beside it too"
)


@final
class Staged:
    """What a backward pass leaves for the update: inputs and output gradients, in place of a gradient.

    Attributes:
        samples: pairs of inputs ``[samples, in]`` and gradients of the outputs ``[samples, out]``, in the order of
            the backward passes.
    """

    def __init__(self) -> None:
        self.samples: list[tuple[Tensor, Tensor]] = []

    def zero_(self) -> None:
        """Forget the samples, as ``zero_grad(set_to_none=False)`` asks."""
        self.samples.clear()

    def detach_(self) -> Staged:
        """Itself: nothing here is recorded."""
        return self

    def requires_grad_(self, requires_grad: bool = False) -> Staged:
        """Itself."""
        return self

    grad_fn = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuntimeError(
            f"an in-memory weight has no dense gradient, so .grad.{name} does not exist. {_ADVICE}; and call zero_grad "
            "before you move, cast or compile a net that has samples staged"
        )


@final
class InMemoryWeight(nn.Parameter):
    """A parameter whose truth is the state of devices.

    Attributes:
        devices: the devices.
        grad: what is staged for the next update, or ``None``.
    """

    devices: Devices
    _staged: Staged | None

    def __new__(cls, data: Tensor, devices: Devices) -> InMemoryWeight:
        """Wrap ``data``, the value that the devices hold now."""
        weight = torch.Tensor._make_subclass(cls, data.detach(), True)
        weight.devices, weight._staged = devices, None
        return weight

    def __init__(self, data: Tensor, devices: Devices) -> None:
        pass

    @property
    def grad(self) -> Staged | None:
        """What is staged."""
        return self._staged

    @grad.setter
    def grad(self, value: None) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        if value is not None:
            raise RuntimeError(f"an in-memory weight takes no gradient. {_ADVICE}")
        self._staged = None

    def stage(self, x: Tensor, d: Tensor) -> None:
        """Keep samples for the next update: ``x`` ``[samples, in]``, ``d`` ``[samples, out]``."""
        if self._staged is None:
            self._staged = Staged()
        self._staged.samples.append((x, d))

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over what the devices hold."""
        self.copy_(self.devices.logical_weight().view_as(self))

    @torch.no_grad()
    def update(self, lr: float, seed: Tensor) -> None:
        """Pulse the devices by what is staged, sample after sample."""
        self.devices.update([self.staged()], lr, seed, self.data)

    @torch.no_grad()
    def send_counts(self, counts: Tensor, seed: Tensor) -> None:
        """Send every weight pulses of its own number: int32 ``[out, in]``, above 0 to grow."""
        self.devices.send_counts(counts, seed, self.data)

    def staged(self) -> tuple[Tensor, Tensor]:
        """All samples that are staged, ``[samples, in]`` and ``[samples, out]``."""
        assert self._staged is not None
        x, d = zip(*self._staged.samples, strict=True)
        return (x[0], d[0]) if len(x) == 1 else (torch.cat(x), torch.cat(d))

    def __deepcopy__(self, memo: dict[int, Any]) -> InMemoryWeight:
        """A copy with devices of its own and nothing staged."""
        if id(self) not in memo:
            copied = InMemoryWeight(self.detach().clone(), copy.deepcopy(self.devices, memo))
            memo[id(self)] = copied.requires_grad_(self.requires_grad)
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Value and devices; nothing staged."""
        return InMemoryWeight, (self.detach(), self.devices)


def in_memory_product(
    x: Tensor, weight: InMemoryWeight, forward: Callable[[Tensor], Tensor], transposed: Callable[[Tensor], Tensor]
) -> Tensor:
    """The tile's product, and in the backward pass its transpose; what the update needs is staged.

    Args:
        x: inputs ``[samples, in]``.
        weight: where to stage.
        forward: the product.
        transposed: ``[samples, out]`` back to ``[samples, in]``.
    """
    return _InMemoryProduct.apply(x, weight, forward, transposed)  # type: ignore[return-value]


class _InMemoryProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: InMemoryWeight, forward: Callable[[Tensor], Tensor],
        transposed: Callable[[Tensor], Tensor],
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x)
        ctx.weight, ctx.transposed = weight, transposed
        return forward(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        if ctx.needs_input_grad[1]:
            ctx.weight.stage(x.detach(), grad.detach())
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        return ctx.transposed(grad.to(ctx.weight.dtype)).to(x.dtype), None, None, None  # autocast's may differ


def _refuse(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    if getattr(optimizer, "pulses_devices", False):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if isinstance(parameter, InMemoryWeight) and parameter.requires_grad:
                raise RuntimeError(f"{type(optimizer).__name__} cannot step an in-memory weight. {_ADVICE}")


register_optimizer_step_pre_hook(_refuse)
