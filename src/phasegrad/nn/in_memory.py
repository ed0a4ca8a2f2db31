"""A weight that lives on devices and is trained there.

The parameter that a layer registers holds what the devices stand for. It never gets a dense gradient: the backward
pass stages inputs and output gradients, and :class:`phasegrad.optim.AnalogSGD` turns them into pulses.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.optim.optimizer import register_optimizer_step_pre_hook

from phasegrad.crossbar.stores import Devices
from phasegrad.nn.layout import OUTPUTS_FIRST, Layout
from phasegrad.nn.patches import Patches
from phasegrad.ops.pulses import SAMPLES_PER_BLOCK

_ADVICE = (
    "This weight lives on devices, which take pulses and no additions. Train it with "
    "phasegrad.optim.AnalogSGD(net.parameters(), lr=...), which trains the digital parameters beside it too"
)


_AROUND = (
    "Clip the other parameters alone, [p for p in net.parameters() if not isinstance(p, phasegrad.nn.InMemoryWeight)]; "
    "for mixed precision use bfloat16, which needs no GradScaler"
)

_MAX_SOLVED = 1 << 20  # numbers that are unfolded at a time, unless 1,024 samples are more


class Samples(NamedTuple):
    """What one backward pass through one layer leaves for the update."""

    x: Tensor
    """Inputs ``[samples, in]``, or a convolution's images ``[batch, channels, ...]``."""
    d: Tensor
    """Gradients of the outputs, ``[samples, out]`` or ``[batch, channels, ...]``."""
    patches: Patches | None = None
    """How images are samples; ``None`` where each row is one."""

    @property
    def number(self) -> int:
        """How many samples these are."""
        return len(self.x) if self.patches is None else self.patches.number(self.d)

    def take(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Some of them: ``[last - first, in]`` and ``[last - first, out]``."""
        if self.patches is None:
            return self.x[first:last], self.d[first:last]
        return self.patches.take(self.x, self.d, first, last)


@final
class Staged:
    """What backward passes leave for the update: inputs and output gradients, in place of a gradient.

    Attributes:
        samples: what each pass left, in the order of the passes.
    """

    def __init__(self) -> None:
        self.samples: list[Samples] = []

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

    def __repr__(self) -> str:
        """What is staged, and what to do: torch shows it where clipping meets no tensor."""
        return f"<samples of {len(self.samples)} backward passes, and no dense gradient. {_ADVICE}. {_AROUND}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuntimeError(
            f"an in-memory weight has no dense gradient, so .grad.{name} does not exist. {_ADVICE}. {_AROUND}. Call "
            "zero_grad before you move, cast or compile a net that has samples staged"
        )


@final
class InMemoryWeight(nn.Parameter):
    """A parameter whose truth is the state of devices.

    Attributes:
        devices: the devices.
        matrix_layout: how it is a matrix ``[out, in]``.
        grad: what is staged for the next update, or ``None``.
    """

    devices: Devices
    matrix_layout: Layout
    _staged: Staged | None

    def __new__(cls, data: Tensor, devices: Devices, layout: Layout = OUTPUTS_FIRST) -> InMemoryWeight:
        """Wrap ``data``, the value that the devices hold now."""
        weight = torch.Tensor._make_subclass(cls, data.detach(), True)
        weight.devices, weight.matrix_layout, weight._staged = devices, layout, None
        weight.register_hook(_refuse_dense)
        return weight

    def __init__(self, data: Tensor, devices: Devices, layout: Layout = OUTPUTS_FIRST) -> None:
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

    def stage(self, x: Tensor, d: Tensor, patches: Patches | None = None) -> None:
        """Keep the samples of a backward pass for the next update; see :class:`Samples`."""
        if self._staged is None:
            self._staged = Staged()
        self._staged.samples.append(Samples(x, d, patches))

    def exchange(self, samples: list[Samples] | None) -> list[Samples] | None:
        """Stage other samples, or none, in place of those that are; returns these."""
        before, self._staged = self._staged, None
        if samples is not None:
            self._staged = Staged()
            self._staged.samples = samples
        return None if before is None else before.samples

    def staged(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All samples that are staged, part after part: ``[samples, in]`` and ``[samples, out]``.

        Images are unfolded here, a part at a time. Where the parts end does not show in an update: each but the last is
        a multiple of the samples whose trains are made together.
        """
        assert self._staged is not None
        samples = self._staged.samples
        if len(samples) == 1 and samples[0].patches is None:
            yield samples[0].x, samples[0].d
            return
        lines = sum(self.matrix_layout.size(self.shape))
        size = SAMPLES_PER_BLOCK * max(1, _MAX_SOLVED // (SAMPLES_PER_BLOCK * lines))
        for first in range(0, sum(s.number for s in samples), size):
            yield _part(samples, first, first + size)

    @torch.no_grad()
    def update(self, lr: float, seed: Tensor, signs: Tensor | None = None) -> None:
        """Pulse the devices by what is staged, sample after sample; ``signs`` ``[in]`` turn input lines."""
        samples = self.staged() if signs is None else ((x * signs, d) for x, d in self.staged())
        held = self.matrix_layout.matrix(self.data)
        self.devices.update(samples, lr, seed, held)
        self._take(held)

    @torch.no_grad()
    def send_counts(self, counts: Tensor, seed: Tensor) -> None:
        """Send every weight pulses of its own number: int32 ``[out, in]``, above 0 to grow."""
        held = self.matrix_layout.matrix(self.data)
        self.devices.send_counts(counts, seed, held)
        self._take(held)

    def _take(self, held: Tensor) -> None:
        """Take over a matrix that followed the devices: a copy where this tensor's layout has no such view."""
        if held.data_ptr() != self.data_ptr():
            self.copy_(self.matrix_layout.weight(held, self.shape))

    def read_fast(self, lines: Tensor, seed: Tensor) -> Tensor:
        """What one read of some input lines, given by their numbers, finds on the fast cells: ``[out, lines]``."""
        return self.devices.read_fast(lines, seed)

    @torch.no_grad()
    def send_to_slow(self, counts: Tensor, lines: Tensor, seed: Tensor) -> None:
        """Send the slow cells of some input lines counted pulses: int32 ``[out, lines]``, above 0 to grow."""
        held = self.matrix_layout.matrix(self.data)
        self.devices.send_to_slow(counts, lines, seed, held)
        self._take(held)

    @torch.no_grad()
    def coincide_on_slow(self, d: Tensor, lr: float, lines: Tensor, seed: Tensor) -> None:
        """Send trains to the slow cells of some input lines, for ``slow -= lr d^T``; ``d`` is ``[lines, out]``."""
        held = self.matrix_layout.matrix(self.data)
        self.devices.coincide_on_slow(d, lr, lines, seed, held)
        self._take(held)

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over what the devices hold."""
        self.copy_(self.matrix_layout.weight(self.devices.logical_weight(), self.shape))

    def __deepcopy__(self, memo: dict[int, Any]) -> InMemoryWeight:
        """A copy with devices of its own and nothing staged."""
        if id(self) not in memo:
            copied = InMemoryWeight(self.detach().clone(), copy.deepcopy(self.devices, memo), self.matrix_layout)
            memo[id(self)] = copied.requires_grad_(self.requires_grad)
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Value and devices; nothing staged."""
        return _restored, (self.detach(), self.devices, self.requires_grad, self.matrix_layout)


def _part(samples: list[Samples], first: int, last: int) -> tuple[Tensor, Tensor]:
    """Samples by their number in all that is staged."""
    taken, start = [], 0
    for some in samples:
        low, high = max(first - start, 0), min(last - start, some.number)
        if low < high:
            taken.append(some.take(low, high))
        start += some.number
    x, d = zip(*taken, strict=True)
    return (x[0], d[0]) if len(x) == 1 else (torch.cat(x), torch.cat(d))


def _refuse_dense(grad: Tensor | None) -> None:
    """The layer's product gives ``None``; anything else would be lost without a word."""
    if grad is not None:
        raise RuntimeError(
            "an in-memory weight was used outside of its layer, as by a penalty on weights, and got a dense gradient. "
            f"{_ADVICE}. Leave the weight out of the loss, or detach it there"
        )


def _restored(data: Tensor, devices: Devices, requires_grad: bool, layout: Layout = OUTPUTS_FIRST) -> InMemoryWeight:
    return InMemoryWeight(data, devices, layout).requires_grad_(requires_grad)  # type: ignore[return-value]


class Tiled(Protocol):
    """A layer as the product in the memory needs it."""

    def multiply(self, x: Tensor) -> Tensor:
        """The product of the tiles."""
        ...

    def transposed(self, d: Tensor, shape: torch.Size) -> Tensor:
        """The product of the same tiles driven from the other side: gradients of inputs of a shape."""
        ...

    @property
    def patches(self) -> Patches | None:
        """How images are samples; ``None`` where each row is one."""
        ...


def in_memory_product(x: Tensor, weight: InMemoryWeight, bias: Tensor | None, layer: Tiled) -> Tensor:
    """The product of a layer's tiles and a digital bias; in the backward pass what the update needs is staged.

    Args:
        x: inputs ``[samples, in]`` or ``[batch, channels, ...]``.
        weight: where to stage.
        bias: ``[out]``, or ``None``.
        layer: forward and transposed product.
    """
    return _InMemoryProduct.apply(x, weight, bias, layer)  # type: ignore[return-value]


class _InMemoryProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: InMemoryWeight, bias: Tensor | None, layer: Tiled) -> Tensor:
        ctx.save_for_backward(x)
        ctx.weight, ctx.layer = weight, layer
        y = layer.multiply(x)
        return y if bias is None else y + (bias if y.dim() == 2 else bias.view(-1, *[1] * (y.dim() - 2)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, _ = ctx.needs_input_grad
        grad_x = grad_bias = None
        if wants_weight:
            ctx.weight.stage(x.detach(), grad.detach(), ctx.layer.patches)
        if wants_x:
            dtype = ctx.weight.dtype
            d = grad if grad.dtype == dtype else grad.to(dtype)  # autocast's may differ
            grad_x = ctx.layer.transposed(d, x.shape)
            grad_x = grad_x if grad_x.dtype == x.dtype else grad_x.to(x.dtype)
        if wants_bias:
            grad_bias = grad.sum(0) if grad.dim() == 2 else grad.sum([0, *range(2, grad.dim())])
        return grad_x, None, grad_bias, None


def _refuse(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    if getattr(optimizer, "pulses_devices", False):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if isinstance(parameter, InMemoryWeight) and parameter.requires_grad:
                raise RuntimeError(f"{type(optimizer).__name__} cannot step an in-memory weight. {_ADVICE}")


register_optimizer_step_pre_hook(_refuse)
