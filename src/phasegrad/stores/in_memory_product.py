"""The product of tiles that are trained in memory, and its backward pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from phasegrad.crossbar.hardware import Hardware
from phasegrad.crossbar.mapping import fixed_scale
from phasegrad.crossbar.product import input_gradient, product
from phasegrad.crossbar.streams import draw_seed
from phasegrad.crossbar.tile_weights import TileWeights
from phasegrad.crossbar.tilings import Tiling
from phasegrad.crossbar.word_lines import Periphery
from phasegrad.ops.profiling import profiled
from phasegrad.stores.in_memory_weight import InMemoryWeight


class InMemoryTiles(NamedTuple):
    """The tiles of one in-memory weight, with all that forward and backward products need."""

    layer: str
    """Type of the layer, for profiles."""
    weight: InMemoryWeight
    tiling: Tiling
    periphery: Periphery
    hardware: Hardware

    def product(self, x: Tensor) -> Tensor:
        """The product of the tiles with inputs ``[samples, in]`` or ``[samples, channels, ...]``."""
        weight, hardware = self.weight, self.hardware
        if hardware.exact:  # draw a seed only if reads of the devices are noisy
            return self.tiling.product(x, weight.read())
        seed = draw_seed(weight.device)
        matrix = weight.read(seed)
        weights = TileWeights(matrix, fixed_scale(matrix, hardware), None, hardware.read_noise)
        return product(x, weights, self.tiling, self.periphery, hardware, seed)

    @profiled(lambda tiles: f"{tiles.layer} {list(tiles.weight.matrix_size)} backward")
    def input_gradient(self, d: Tensor, shape: torch.Size) -> Tensor:
        """The gradient of inputs with shape ``shape``, which the same tiles compute when driven from their columns."""
        seed = None if self.hardware.exact else draw_seed(d.device)
        weight, output_range = self.weight.read(seed), self.periphery.output_range
        return input_gradient(d, weight, shape, self.tiling, output_range, self.hardware, seed)


def in_memory_product(x: Tensor, weight: InMemoryWeight, bias: Tensor | None, tiles: InMemoryTiles) -> Tensor:
    """The product of the tiles plus a digital bias; the backward pass stages samples for the next update.

    Args:
        x: inputs ``[samples, in]`` or ``[batch, channels, ...]``.
        weight: the weight of the tiles, which stages the samples.
        bias: ``[out]``, or ``None``.
        tiles: the tiles.
    """
    return _InMemoryProduct.apply(x, weight, bias, tiles)  # type: ignore[return-value]


class _InMemoryProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: InMemoryWeight, bias: Tensor | None, tiles: InMemoryTiles) -> Tensor:
        ctx.save_for_backward(x)
        ctx.weight, ctx.tiles = weight, tiles
        y = tiles.product(x)
        return y if bias is None else y + (bias if y.dim() == 2 else bias.view(-1, *[1] * (y.dim() - 2)))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        weight, tiles = ctx.weight, ctx.tiles
        grad_x = grad_weight = grad_bias = None
        if needs_weight:
            node = ctx.next_functions[1][0]
            grad_weight = weight.gradient(node, x, grad, tiles.tiling.patches)
        if needs_x:
            d = grad if grad.dtype == weight.dtype else grad.to(weight.dtype)  # the dtype of autocast may differ
            recorded = torch.is_grad_enabled()  # with create_graph=True
            grad_x = _InputGradient.apply(d, weight, tiles, x.shape) if recorded else tiles.input_gradient(d, x.shape)
            grad_x = grad_x if grad_x.dtype == x.dtype else grad_x.to(x.dtype)
        if needs_bias:
            grad_bias = grad.sum(0) if grad.dim() == 2 else grad.sum([0, *range(2, grad.dim())])
        return grad_x, grad_weight, grad_bias, None


class _InputGradient(torch.autograd.Function):
    """The gradient of the inputs, ``d W``, when it is differentiated again, as in a gradient penalty.

    It is linear in ``d`` and in ``W``. With the gradient ``v`` of its result, ``d`` receives the forward product of
    ``v``, and the weight the gradient ``d^T v``, so ``(v, d)`` are staged.
    """

    @staticmethod
    def forward(ctx: Any, d: Tensor, weight: InMemoryWeight, tiles: InMemoryTiles, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(d)
        ctx.weight, ctx.tiles = weight, tiles
        return tiles.input_gradient(d, shape)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        (d,) = ctx.saved_tensors
        needs_d, needs_weight, *_ = ctx.needs_input_grad
        grad_d = grad_weight = None
        if needs_weight:
            node = ctx.next_functions[1][0]
            grad_weight = ctx.weight.gradient(node, v, d, ctx.tiles.tiling.patches)
        if needs_d:
            grad_d = in_memory_product(v, ctx.weight, None, ctx.tiles)
        return grad_d, grad_weight, None, None
