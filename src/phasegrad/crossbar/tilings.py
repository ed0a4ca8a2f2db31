"""How the inputs of a layer meet the rows of its tiles.

A layer type differs from the others in its tiling alone: how the product of each row tile is computed, which samples an
in-memory update consists of, and how gradients return to the inputs.
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
"""Product ``[n, in]`` of gradients ``[n, out]`` and weights ``[out, in]`` of tiles that are driven from their columns;
the integer distinguishes the random draws of several such products."""

_MAX_FOLDED = 1 << 22
"""Largest number of patch gradients that are folded at once, unless a single image has more."""


class Tiling(ABC):
    """How inputs meet the rows of tiles with weights ``[out, in]``."""

    fused: ClassVar[bool] = False
    """Whether the op ``tile_linear`` computes this tiling."""

    @abstractmethod
    def product(self, x: Tensor, w: Tensor) -> Tensor:
        """The exact product ``[rows, channels, ...]``."""

    @abstractmethod
    def partial_products(self, x: Tensor, w: Tensor) -> Sequence[Tensor]:
        """The exact product of each row tile; they add up to :meth:`product`."""

    def charges(self, integrator: Integrator, x: Tensor, w: Tensor, ticks: int | None) -> Sequence[Tensor]:
        """The charge of the columns of each row tile at the end of a window of pulse durations ``x`` in [-1, 1]."""
        return integrator.integrate(x, w, self.partial_products, ticks)

    @property
    def patches(self) -> Patches | None:
        """How images are samples of an in-memory update; ``None`` if each row of the input is one sample."""
        return None

    def input_gradient(self, d: Tensor, w: Tensor, shape: torch.Size) -> Tensor:
        """The exact gradient of inputs of a shape, from output gradients ``d``."""
        raise NotImplementedError(f"{type(self).__name__} has no gradient of its inputs")

    def tiled_input_gradient(self, d: Tensor, w: Tensor, shape: torch.Size, column_driven: ColumnDriven) -> Tensor:
        """The gradient of inputs of a shape, from products of tiles that are driven from their columns."""
        raise NotImplementedError(f"{type(self).__name__} has no gradient of its inputs")


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

    The rows of a tile are consecutive (channel, kernel position) pairs. Its product is a convolution over the channels
    of these pairs, with zeros where the first and the last channel lie partly outside; no unfolded copy of the input
    (9 times larger for a 3x3 kernel) is needed.

    Attributes:
        convolve: the function of torch that convolves.
        kernel_size: positions of the kernel along each dimension.
        stride: of the convolution.
        padding: as the function accepts it.
        dilation: of the convolution.
        groups: of inputs and outputs.
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
        # Channels last: convolution and pooling take half the time of the other order on a CPU, and the converters,
        # which see the channels of one position after another, need no copy.
        order = {4: torch.channels_last, 5: torch.channels_last_3d}.get(kernel.dim(), torch.contiguous_format)
        kernel = kernel.clone(memory_format=order)  # contiguous() would leave a kernel of one channel as it is
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
        """The gradient of images: a tile is driven by the gradients of one position at a time, as by one patch."""
        patches, weights = self.patches, w.chunk(self.groups)
        images = d.movedim(1, -1).unflatten(-1, (self.groups, -1))
        folded = []
        size = max(1, _MAX_FOLDED // (patches.number(d[:1]) * w.shape[1]))
        for i, some in enumerate(images.split(size)):
            by_group = some.flatten(0, -3).unbind(1)
            parts = [
                column_driven(rows, weight, i * self.groups + group)
                for group, (rows, weight) in enumerate(zip(by_group, weights, strict=True))
            ]
            gradients = torch.stack(parts, 1).view(*some.shape[:-1], -1, *self.kernel_size)
            folded.append(patches.fold(gradients, shape))
        return torch.cat(folded)


@final
@dataclass(frozen=True)
class SingleRows(Tiling):
    """One tile whose rows are driven one at a time, as calibration reads it; input ``[rows, 1]``, one value per row."""

    def product(self, x: Tensor, w: Tensor) -> Tensor:
        """What each row contributes to each column ``[rows, out]``."""
        return w.t() * x

    def partial_products(self, x: Tensor, w: Tensor) -> Sequence[Tensor]:
        """That of the only tile."""
        return [self.product(x, w)]

    def charges(self, integrator: Integrator, x: Tensor, w: Tensor, ticks: int | None) -> Sequence[Tensor]:
        """The charge that a single row leaves in each column grows steadily, so saturation clips its end."""
        charge = self.product(integrator.charge_of(x), w)
        return [charge.clamp(-integrator.saturation, integrator.saturation)]


@final
@dataclass(frozen=True)
class LookUp(Tiling):
    """Tiles driven from their columns by one token at a time, as an embedding reads them; input ``[n]``, integers.

    Attributes:
        rows: inputs per tile, whose bit lines are sensed here.
        padding_idx: a token without gradient, or ``None``.
        scale_grad_by_freq: as in torch.
    """

    rows: int
    padding_idx: int | None
    scale_grad_by_freq: bool

    def product(self, x: Tensor, w: Tensor) -> Tensor:
        """The weights of each token ``[n, in]``."""
        return F.embedding(x, w, self.padding_idx, None, 2.0, self.scale_grad_by_freq)

    def partial_products(self, x: Tensor, w: Tensor) -> Sequence[Tensor]:
        """Those of each row tile ``[n, rows]``; they are not added, but lie side by side."""
        return self.product(x, w).split(self.rows, dim=1)
