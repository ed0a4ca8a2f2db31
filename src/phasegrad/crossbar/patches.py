"""Division of the images of a convolution into samples of its matrix."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor


@final
@dataclass(frozen=True)
class Patches:
    """The geometry of a convolution.

    Every output position of an image has one patch, ``[channels / groups * kernel positions]``, per group of channels,
    so an image is divided into ``positions * groups`` samples. Their order is image by image, position by position,
    group by group. A sample has output gradients of its own group alone: it sends no pulses to the others.

    Attributes:
        kernel_size: size of the kernel along each spatial dimension.
        stride: distance between positions along each dimension.
        dilation: distance between kernel elements along each dimension.
        groups: groups of channels.
        edges: zeros around the image, in the order of ``F.pad``.
    """

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    edges: tuple[int, ...]

    def number(self, d: Tensor) -> int:
        """Number of samples with output gradients ``[batch, out, ...]``."""
        return len(d) * self._per_image(d)

    def _per_image(self, d: Tensor) -> int:
        """Number of samples per image."""
        return math.prod(d.shape[2:]) * self.groups

    def select(self, x: Tensor, d: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Samples ``first`` to ``last`` of images ``[batch, in, ...]`` and output gradients ``[batch, out, ...]``.

        Returns:
            Inputs ``[last - first, in / groups * kernel positions]`` and gradients ``[last - first, out / groups]``.
        """
        per_image = self._per_image(d)
        start = first // per_image
        chosen = slice(start, -(-last // per_image))
        first, last = first - start * per_image, last - start * per_image
        d = d[chosen].movedim(1, -1).unflatten(-1, (self.groups, -1))
        gradients = d.reshape(-1, d.shape[-1])[first:last]
        # Where most of the images are wanted, a copy of whole rows is faster.
        if 2 * (last - first) >= (chosen.stop - start) * per_image:
            return self._all_patches(x[chosen], d.shape[1:-2])[first:last], gradients
        index = torch.unravel_index(torch.arange(first, last, device=x.device), d.shape[:-1])
        return self._windows(x[chosen])[index].flatten(1), gradients

    def _all_patches(self, x: Tensor, positions: Sequence[int]) -> Tensor:
        """All samples of images ``[samples, in / groups * kernel positions]``.

        With groups, whose channels are few, positions of the kernel are interleaved, which takes half of the time of a
        copy of all windows.
        """
        if self.groups == 1:
            return self._windows(x).flatten(0, len(positions) + 1).flatten(1)
        padded = F.pad(x, self.edges).movedim(1, -1).contiguous()
        by_kernel = [
            padded[(slice(None), *self._positions_read(index, positions))]
            for index in itertools.product(*map(range, self.kernel_size))
        ]
        return torch.stack(by_kernel, -1).view(-1, x.shape[1] // self.groups * len(by_kernel))

    def _windows(self, x: Tensor) -> Tensor:
        """A view ``[batch, *positions, groups, channels / groups, *kernel positions]`` of padded images."""
        x = F.pad(x, self.edges).movedim(1, -1).contiguous()  # with channels last, gathering is five times faster
        for axis, (size, stride, dilation) in enumerate(self._axes, start=1):
            x = x.unfold(axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
        return x.unflatten(len(self.kernel_size) + 1, (self.groups, -1))

    def fold(self, patches: Tensor, shape: Sequence[int]) -> Tensor:
        """The adjoint of the division into patches: add each value at the position from which it was read.

        Args:
            patches: ``[batch, *positions, groups, channels / groups, *kernel positions]``.
            shape: shape of the images, ``[batch, channels, ...]``.
        """
        space = len(self.kernel_size)
        padded = [size + low + high for size, low, high in zip(shape[2:], *self._sides, strict=True)]
        images = patches.new_zeros(len(patches), *padded, shape[1])
        by_kernel = patches.flatten(space + 1, space + 2).movedim(space + 1, -1)
        for index in itertools.product(*map(range, self.kernel_size)):
            images[(slice(None), *self._positions_read(index, patches.shape[1 : space + 1]))] += by_kernel[
                (slice(None), *[slice(None)] * space, *index)
            ]
        return self._crop(images.movedim(-1, 1), shape)

    def _positions_read(self, kernel_position: Sequence[int], positions: Sequence[int]) -> list[slice]:
        """The positions of the image that all windows read with one position of the kernel."""
        starts = [p * dilation for p, dilation in zip(kernel_position, self.dilation, strict=True)]
        return [
            slice(start, start + stride * (count - 1) + 1, stride)
            for start, stride, count in zip(starts, self.stride, positions, strict=True)
        ]

    def transposed(self, d: Tensor, kernel: Tensor, shape: Sequence[int]) -> Tensor:
        """The exact gradient of inputs with shape ``shape``, for output gradients ``[batch, out, ...]``."""
        low, high = self._sides
        symmetric = low == high  # torch pads both sides equally
        padding = list(low) if symmetric else [0] * len(low)
        size = shape[2:] if symmetric else [s + a + b for s, a, b in zip(shape[2:], low, high, strict=True)]
        images = d.new_empty(1).expand(*shape[:2], *size)  # only the size is read
        geometry = (list(self.stride), padding, list(self.dilation), False, [0] * len(low), self.groups)
        gradients = [True, False, False]  # of the images, kernel and bias
        x = torch.ops.aten.convolution_backward(d, images, kernel, None, *geometry, gradients)[0]
        return x if symmetric else self._crop(x, shape)

    def _crop(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        low, _ = self._sides
        return x[(..., *[slice(a, a + size) for a, size in zip(low, shape[2:], strict=True)])]

    @property
    def _axes(self) -> list[tuple[int, int, int]]:
        return list(zip(self.kernel_size, self.stride, self.dilation, strict=True))

    @property
    def _sides(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Zeros before and after the image, dimension by dimension; ``edges`` starts with the last dimension."""
        return self.edges[-2::-2], self.edges[-1::-2]
