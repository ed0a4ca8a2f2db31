"""Tilings: the assignment of a layer's inputs to the rows of its tiles.

Layer types differ only in their tiling, which defines the product of each row tile, the samples of an in-memory update,
and the gradient of the inputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from phasegrad.crossbar.duration import Integrator
from phasegrad.crossbar.patches import Patches

ColumnDriven = Callable[[Tensor, Tensor, int], Tensor]
"""Product ``[n, in]`` of gradients ``[n, out]`` and weights ``[out, in]`` of tiles that are driven from their columns.
The integer selects the random draws, which differ between several such products."""

_MAX_FOLDED = 1 << 22
"""Largest number of patch gradients that are folded at once, unless a single image has more."""


class Tiling(ABC):
    """Assignment of inputs to the rows of tiles with weights ``[out, in]``."""

    fused: ClassVar[bool] = False
    """Whether the op ``tile_linear`` computes this tiling."""
    senses_rows: ClassVar[bool] = False
    """Whether a product drives one column and converts the rows, instead of driving the rows."""

    @abstractmethod
    def product(self, x: Tensor, w: Tensor) -> Tensor:
        """The exact product ``[samples, channels, ...]``."""

    @abstractmethod
    def partial_products(self, x: Tensor, w: Tensor) -> Sequence[Tensor]:
        """The exact product of each row tile; ``product`` is their sum."""

    def charges(self, integrator: Integrator, x: Tensor, w: Tensor, ticks: int | None) -> Sequence[Tensor]:
        """The charge of the columns of each row tile at the end of a window of pulse durations ``x`` in [-1, 1]."""
        return integrator.integrate(x, w, self.partial_products, ticks)

    @property
    def patches(self) -> Patches | None:
        """Division of images into samples of an in-memory update; ``None`` if each row of the input is one sample."""
        return None

    def input_gradient(self, d: Tensor, w: Tensor, shape: torch.Size) -> Tensor:
        """The exact gradient of inputs with shape ``shape``, from output gradients ``d``."""
        raise NotImplementedError(f"{type(self).__name__}: the gradient of the inputs is not implemented")

    def tiled_input_gradient(self, d: Tensor, w: Tensor, shape: torch.Size, column_driven: ColumnDriven) -> Tensor:
        """The gradient of inputs with shape ``shape``, from products of tiles that are driven from their columns."""
        raise NotImplementedError(f"{type(self).__name__}: the gradient of the inputs is not implemented")


@final
@dataclass(frozen=True)
class LinearTiling(Tiling):
    """Row tiles of a matrix product of inputs ``[n, in]``; tile ``t`` has inputs ``t * rows`` to ``(t + 1) * rows``."""

    rows: int
    fused: ClassVar[bool] = True

    def product(self, x: Tensor, w: Tensor) -> Tensor:
        """The exact product ``[n, out]``."""
        return F.linear(x, w)

    def partial_products(self, x: Tensor, w: Tensor) -> Sequence[Tensor]:
        """The exact product of each row tile."""
        return [F.linear(a, b) for a, b in zip(x.split(self.rows, dim=1), w.split(self.rows, dim=1), strict=True)]

    def input_gradient(self, d: Tensor, w: Tensor, shape: torch.Size) -> Tensor:
        """The exact gradient ``[n, in]``."""
        return d @ w

    def tiled_input_gradient(self, d: Tensor, w: Tensor, shape: torch.Size, column_driven: ColumnDriven) -> Tensor:
        """The gradient ``[n, in]``: one product of the same tiles."""
        return column_driven(d, w, 0)


@final
@dataclass(frozen=True)
class ConvolutionTiling(Tiling):
    """Row tiles of a convolution, computed as convolutions.

    The rows of a tile are consecutive pairs of channel and kernel position. The product of a tile is a convolution over
    the channels of its pairs, with zeros at positions of the first and the last channel outside the tile. No unfolded
    copy of the input, 9 times larger for a 3x3 kernel, is needed.

    Attributes:
        convolve: convolution function of torch.
        kernel_size: positions of the kernel along each dimension.
        stride: stride of the convolution.
        padding: padding argument of the function.
        dilation: dilation of the convolution.
        groups: groups of inputs and outputs.
        rows: inputs per tile.
        edges: zeros around each image, in the order of ``torch.nn.functional.pad``.
    """

    convolve: Callable[..., Tensor]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    rows: int
    edges: tuple[int, ...]

    @property
    def patches(self) -> Patches:
        """One sample per position and group of every image."""
        return Patches(self.kernel_size, self.stride, self.dilation, self.groups, self.edges)

    def product(self, x: Tensor, w: Tensor) -> Tensor:
        """The exact convolution ``[batch, channels, ...]``."""
        return self._convolution(x, w.view(w.shape[0], -1, *self.kernel_size))

    def partial_products(self, x: Tensor, w: Tensor) -> Sequence[Tensor]:
        """The exact convolution of each row tile."""
        if w.shape[1] <= self.rows:
            return [self.product(x, w)]
        return [self._partial(x, part, i * self.rows) for i, part in enumerate(w.split(self.rows, dim=1))]

    def _convolution(self, x: Tensor, kernel: Tensor) -> Tensor:
        # With channels last, convolution and pooling take half as long on a CPU, and the converters, which process the
        # channels of one position after another, need no copy.
        order = {4: torch.channels_last, 5: torch.channels_last_3d}.get(kernel.dim(), torch.contiguous_format)
        kernel = kernel.clone(memory_format=order)  # contiguous() does not reorder a one-channel kernel
        return self.convolve(x, kernel, None, self.stride, self.padding, self.dilation, self.groups)

    def _partial(self, x: Tensor, part: Tensor, start: int) -> Tensor:
        positions = torch.Size(self.kernel_size).numel()
        end = start + part.shape[1]
        first, last = start // positions, -(-end // positions)
        kernel = F.pad(part, (start - first * positions, last * positions - end))
        by_group = x.unflatten(1, (self.groups, -1))[:, :, first:last].flatten(1, 2)
        return self._convolution(by_group, kernel.view(part.shape[0], last - first, *self.kernel_size))

    def input_gradient(self, d: Tensor, w: Tensor, shape: torch.Size) -> Tensor:
        """The exact gradient of images."""
        return self.patches.transposed(d, w.view(len(w), -1, *self.kernel_size), shape)

    def tiled_input_gradient(self, d: Tensor, w: Tensor, shape: torch.Size, column_driven: ColumnDriven) -> Tensor:
        """The gradient of images, from tiles that the gradients of one position drive at a time."""
        patches, weights = self.patches, w.chunk(self.groups)
        images = d.movedim(1, -1).unflatten(-1, (self.groups, -1))
        folded = []
        size = max(1, _MAX_FOLDED // (patches.number(d[:1]) * w.shape[1]))
        for i, block in enumerate(images.split(size)):
            by_group = block.flatten(0, -3).unbind(1)
            parts = [
                column_driven(rows, weight, i * self.groups + group)
                for group, (rows, weight) in enumerate(zip(by_group, weights, strict=True))
            ]
            gradients = torch.stack(parts, 1).view(*block.shape[:-1], -1, *self.kernel_size)
            folded.append(patches.fold(gradients, shape))
        return torch.cat(folded)


@final
@dataclass(frozen=True)
class SingleRows(Tiling):
    """One tile whose rows a calibration read drives one at a time; the input is ``[rows, 1]``, one value per row."""

    def product(self, x: Tensor, w: Tensor) -> Tensor:
        """The contribution of each row to each column ``[rows, out]``."""
        return w.t() * x

    def partial_products(self, x: Tensor, w: Tensor) -> Sequence[Tensor]:
        """The contributions of the single tile."""
        return [self.product(x, w)]

    def charges(self, integrator: Integrator, x: Tensor, w: Tensor, ticks: int | None) -> Sequence[Tensor]:
        """The charge of each column, clipped at its end, because the charge of a single row grows monotonically."""
        charge = self.product(integrator.charge_of(x), w)
        return [charge.clamp(-integrator.saturation, integrator.saturation)]


@final
@dataclass(frozen=True)
class LookUp(Tiling):
    """Tiles of an embedding, driven from their columns by one token at a time; the input is ``[n]``, integers.

    Attributes:
        rows: inputs per tile, whose lines are sensed.
        padding_idx: a token without gradient, or ``None``.
        scale_grad_by_freq: argument of ``torch.nn.functional.embedding``.
    """

    rows: int
    padding_idx: int | None
    scale_grad_by_freq: bool
    senses_rows: ClassVar[bool] = True

    def product(self, x: Tensor, w: Tensor) -> Tensor:
        """The weights of each token ``[n, in]``."""
        return F.embedding(x, w, self.padding_idx, None, 2.0, self.scale_grad_by_freq)

    def partial_products(self, x: Tensor, w: Tensor) -> Sequence[Tensor]:
        """The weights of each row tile ``[n, rows]``, to be concatenated rather than summed."""
        return self.product(x, w).split(self.rows, dim=1)
