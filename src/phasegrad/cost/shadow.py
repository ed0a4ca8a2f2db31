"""A copy of a net without values, whose analog layers note their calls instead of running tiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from phasegrad.conversion.in_place import attribute_values
from phasegrad.cost.operators import OperatorCounter
from phasegrad.crossbar.tile_weights import TileWeights
from phasegrad.nn import AnalogLayer
from phasegrad.nn.copying import copy_net
from phasegrad.stores import WeightStore


class Call(NamedTuple):
    """One call of an analog layer."""

    layer: str
    vectors: int
    """Vectors that the tiles multiply one after another: samples, positions of a convolution, or tokens."""
    outputs: tuple[int, int]
    """The first output that was computed, and the one behind the last."""
    value_bytes: int
    """Bytes of an input or output that no converter rounds."""
    values: int
    """Inputs and outputs, each once: an image of a convolution, not the overlapping patches that its vectors are."""


class Notes:
    """What the analog layers of a shadow note while it runs.

    Attributes:
        calls: products of forward passes.
        transposed: products of backward passes, which compute gradients of inputs.
        updates: products whose gradients update the weight.
        counter: counts what is digital.
    """

    def __init__(self) -> None:
        self.counter: OperatorCounter | None = None
        self.clear()

    def clear(self) -> None:
        """Forget all passes."""
        self.calls: list[Call] = []
        self.transposed: list[Call] = []
        self.updates: list[Call] = []

    def product(self, name: str, layer: AnalogLayer, x: Tensor, outputs: slice | None) -> Tensor:
        """Note a product with inputs ``x``; returns outputs without values."""
        assert self.counter is not None
        first, last, _ = (outputs or slice(None)).indices(layer.out_features)
        with self.counter.paused():
            weight = layer.weight_matrix if outputs is None else layer.weight_matrix[outputs]
            y = layer.tiling.product(x, weight)
        channels = layer.in_features if layer.tiling.senses_rows else last - first
        vectors = y.numel() // max(1, channels)
        call = Call(name, vectors, (first, last), x.element_size(), x.numel() + y.numel())
        self.calls.append(call)
        if torch.is_grad_enabled():
            y = _NotedProduct.apply(x, layer.weight, y.detach(), self, call)
        self.counter.mark(y)
        return y


class _NotedProduct(torch.autograd.Function):
    """A product that notes its backward pass; the weight gets no gradient, as if it were staged for pulses."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, y: Tensor, notes: Notes, call: Call) -> Tensor:
        ctx.notes, ctx.call, ctx.shape = notes, call, x.shape
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        needs_x, needs_weight, *_ = ctx.needs_input_grad
        notes, call = ctx.notes, ctx.call
        if needs_weight:
            notes.updates.append(call)
        if not needs_x:
            return (None,) * 5
        notes.transposed.append(call)
        with notes.counter.paused():
            gradient = grad.new_empty(ctx.shape)
        notes.counter.mark(gradient)
        return gradient, None, None, None, None


class _Noted(WeightStore):
    """A store that notes products instead of computing them."""

    name = "traced"
    holds_copy = False
    notes: ClassVar[Notes]
    layer_name: ClassVar[str]

    def matrix(self, seed: Tensor) -> TileWeights:
        weight = self.layer.weight_matrix
        return TileWeights(weight, weight.new_ones(1, len(weight)), None, 0.0)

    def mean_matrix(self) -> TileWeights:
        return self.matrix(self.no_seed())

    def to_parameter(self) -> nn.Parameter:
        return self.layer.weight

    def read_once(self) -> None:
        return None

    def output(
        self, x: Tensor, bias: Tensor | None, weights: TileWeights | None = None, outputs: slice | None = None
    ) -> Tensor:
        """The shape of the product; the bias is added with the partial sums, so it is not an operator."""
        layer: Any = self.layer
        return self.notes.product(self.layer_name, layer, x, outputs)


def shadow(net: nn.Module, layers: dict[str, AnalogLayer], notes: Notes) -> nn.Module:
    """Copy a net within a ``FakeTensorMode``, whose tensors have shapes and no values.

    Args:
        net: the net, which is left unchanged.
        layers: its analog layers by name.
        notes: what the analog layers of the copy note.
    """
    memo: dict[int, Any] = {}
    inside = {id(part) for layer in layers.values() for part in layer.modules()}
    for module in net.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and id(tensor) not in memo:
                memo[id(tensor)] = without_values(tensor)
    for module, _, value in attribute_values(net):
        if isinstance(value, Tensor) and id(module) not in inside and id(value) not in memo:
            memo[id(value)] = without_values(value)
    for name, layer in layers.items():
        memo[id(layer)] = _noting_layer(name, layer, memo, notes)
    return copy_net(net, memo)


def without_values(tensor: Tensor) -> Tensor:
    """A tensor of the same shape, dtype and device, within a ``FakeTensorMode``.

    A tensor on the meta device becomes one on the CPU. Tensors that are not dense are returned as they are.
    """
    if tensor.layout is not torch.strided:
        return tensor
    device = "cpu" if tensor.is_meta else tensor.device
    blank = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
    return nn.Parameter(blank, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else blank


def _noting_layer(name: str, layer: AnalogLayer, memo: dict[int, Any], notes: Notes) -> AnalogLayer:
    """The layer with the same options and hooks, and a store that notes its products."""
    copied: AnalogLayer = object.__new__(type(layer))
    tensors = {
        kind: {key: None if t is None else memo[id(t)] for key, t in vars(layer)[kind].items()}
        for kind in ("_parameters", "_buffers")
    }
    vars(copied).update({**vars(layer), **tensors, "_modules": dict.fromkeys(layer._modules)})
    vars(copied).update(assigned=None, range_is_stale=False)
    copied.use_store(type("Noted", (_Noted,), {"notes": notes, "layer_name": name}))
    if layer.tiling.senses_rows:
        vars(copied)["forward"] = _looking_up(name, copied, notes)
    return copied


def _looking_up(name: str, layer: AnalogLayer, notes: Notes) -> Callable[..., Tensor]:
    def forward(input: Tensor, weights: TileWeights | None = None) -> Tensor:
        return notes.product(name, layer, input, None)

    return forward
