"""The product of tiles that are trained in the memory, and its backward pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from phasegrad.crossbar.hardware import Hardware
from phasegrad.crossbar.product import input_gradient, product
from phasegrad.crossbar.streams import draw_seed
from phasegrad.crossbar.tile_weights import TileWeights
from phasegrad.crossbar.tilings import Tiling
from phasegrad.crossbar.word_lines import Periphery
from phasegrad.ops.profiling import profiled
from phasegrad.stores.in_memory_weight import InMemoryWeight


class MemoryTiles(NamedTuple):
    """The tiles of one in-memory weight: everything that forward and backward products read."""

    layer: str
    """Type of the layer, for profiles."""
    weight: InMemoryWeight
    tiling: Tiling
    periphery: Periphery
    hardware: Hardware

    def product(self, x: Tensor) -> Tensor:
        """The product of the tiles with inputs ``[rows, in]`` or ``[rows, channels, ...]``."""
        weight, hardware = self.weight, self.hardware
        if hardware.exact:  # only noisy reads of the devices draw
            return self.tiling.product(x, weight.read())
        seed = draw_seed(weight.device)
        matrix = weight.read(seed)
        scale = matrix.new_full((-(-matrix.shape[1] // hardware.rows), len(matrix)), float(hardware.scale))
        weights = TileWeights(matrix, scale, None, hardware.read_noise)
        return product(x, weights, self.tiling, self.periphery, hardware, seed)

    @profiled(lambda tiles: f"{tiles.layer} {list(tiles.weight.matrix_size)} backward")
    def input_gradient(self, d: Tensor, shape: torch.Size) -> Tensor:
        """The gradient of inputs of a shape, as the same tiles compute it when they are driven from their columns."""
        seed = None if self.hardware.exact else draw_seed(d.device)
        weight, output_range = self.weight.read(seed), self.periphery.output_range
        return input_gradient(d, weight, shape, self.tiling, output_range, self.hardware, seed)


def in_memory_product(x: Tensor, weight: InMemoryWeight, bias: Tensor | None, tiles: MemoryTiles) -> Tensor:
    """The product of the tiles and a digital bias; the backward pass stages what the update needs.

    Args:
        x: inputs ``[samples, in]`` or ``[batch, channels, ...]``.
        weight: the weight of the tiles, where samples are staged.
        bias: ``[out]``, or ``None``.
        tiles: the tiles.
    """
    return _InMemoryProduct.apply(x, weight, bias, tiles)  # type: ignore[return-value]


class _InMemoryProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: InMemoryWeight, bias: Tensor | None, tiles: MemoryTiles) -> Tensor:
        ctx.save_for_backward(x)
        ctx.weight, ctx.tiles = weight, tiles
        y = tiles.product(x)
        return y if bias is None else y + (bias if y.dim() == 2 else bias.view(-1, *[1] * (y.dim() - 2)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, _ = ctx.needs_input_grad
        grad_x = grad_bias = None
        if wants_weight:
            ctx.weight.stage(x.detach(), grad.detach(), ctx.tiles.tiling.patches)
        if wants_x:
            dtype = ctx.weight.dtype
            d = grad if grad.dtype == dtype else grad.to(dtype)  # autocast's may differ
            grad_x = ctx.tiles.input_gradient(d, x.shape)
            grad_x = grad_x if grad_x.dtype == x.dtype else grad_x.to(x.dtype)
        if wants_bias:
            grad_bias = grad.sum(0) if grad.dim() == 2 else grad.sum([0, *range(2, grad.dim())])
        return grad_x, None, grad_bias, None
