"""Analog twins of ``nn.Conv1d``, ``nn.Conv2d``, ``nn.Conv3d``."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phasegrad.crossbar import Hardware
from phasegrad.crossbar.mapping import tile_count
from phasegrad.crossbar.product import ConvolutionTiles
from phasegrad.nn.layer import AnalogLayer
from phasegrad.nn.patches import Patches

_TOGETHER = 1 << 22  # gradients of patches that are folded at a time, unless an image has more


class _AnalogConv(AnalogLayer, ABC):
    """What the convolutions share; each output channel of each group is a column."""

    _twin: ClassVar[type[nn.modules.conv._ConvNd]]
    _convolve: ClassVar[Callable[..., Tensor]]
    _options = (
        "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode",
    )  # fmt: skip

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1, padding: str | int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1, groups: int = 1, bias: bool = True, padding_mode: str = "zeros",
        device: Any = None, dtype: Any = None, *, hardware: Hardware,
    ) -> None:  # fmt: skip
        options = (kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype)
        self._adopt(self._twin(in_channels, out_channels, *options), hardware)  # type: ignore[arg-type]

    def _adopt(self, digital: nn.Module, hardware: Hardware) -> None:
        super()._adopt(digital, hardware)
        self._edges = tuple(digital._reversed_padding_repeated_twice)  # type: ignore[arg-type]

    @property
    def _columns(self) -> int:
        return min(self.hardware.columns, self.out_channels // self.groups)

    @property
    def _lines(self) -> int:
        return self.in_channels

    @property
    def tiles(self) -> int:
        """Crossbar tiles that the layer takes: each group is a matrix of its own."""
        return self.groups * tile_count(self.out_channels // self.groups, self.in_features, self.hardware)

    @property
    def _kernel(self) -> tuple[int, ...]:
        """Positions of an image that one sample of the matrix sees."""
        return self.kernel_size

    @property
    def _tiles(self) -> ConvolutionTiles:
        padding = self.padding if self.padding_mode == "zeros" else (0,) * len(self.kernel_size)
        return ConvolutionTiles(
            convolve=type(self)._convolve,
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
            rows=self.hardware.rows,
        )

    @property
    def patches(self) -> Patches:
        """One for each position and group of every image."""
        # Padding that is not of zeros is put around the rows themselves.
        edges = self._edges if self.padding_mode == "zeros" else (0,) * len(self._edges)
        return Patches(self.kernel_size, self.stride, self.dilation, self.groups, edges)

    def _transposed_exactly(self, d: Tensor, shape: torch.Size, weight: Tensor) -> Tensor:
        return self.patches.transposed(d, weight.view(len(weight), -1, *self._kernel), shape)

    def _transposed_by_tiles(self, d: Tensor, shape: torch.Size, seed: Tensor) -> Tensor:
        # A tile is driven by the gradients of one position at a time, as it was by one patch.
        weights, patches = self._held(seed).chunk(self.groups), self.patches
        images = d.movedim(1, -1).unflatten(-1, (self.groups, -1))
        folded = []
        together = max(1, _TOGETHER // (patches.number(d[:1]) * self.in_features))
        for i, some in enumerate(images.split(together)):
            by_group = some.flatten(0, -3).unbind(1)
            parts = [
                self._turned_product(rows, weight, seed + i * self.groups + group)
                for group, (rows, weight) in enumerate(zip(by_group, weights, strict=True))
            ]
            seen = torch.stack(parts, 1).view(*some.shape[:-1], -1, *self._kernel)
            folded.append(patches.fold(seen, shape))
        return torch.cat(folded)

    def _to_rows(self, x: Tensor) -> Tensor:
        space = len(self.kernel_size)
        if x.dim() not in (space + 1, space + 2) or x.shape[-space - 1] != self.in_channels:
            raise ValueError(
                f"{type(self).__name__}: input has shape {list(x.shape)}; it must be [batch, {self.in_channels}, "
                f"{'...' if space > 1 else 'length'}] with {space} spatial dimension(s), or the same without batch"
            )
        x = x if x.dim() == space + 2 else x.unsqueeze(0)
        return x if self.padding_mode == "zeros" else F.pad(x, self._edges, mode=self.padding_mode)

    def _from_rows(self, y: Tensor, x: Tensor) -> Tensor:
        return y if x.dim() == len(self.kernel_size) + 2 else y.squeeze(0)

    def _digital(self) -> nn.Module:
        options = (self.stride, self.padding, self.dilation, self.groups, self.bias is not None, self.padding_mode)
        sizes = (self.in_channels, self.out_channels, self.kernel_size)
        return self._twin(*sizes, *options, device="meta")  # type: ignore[arg-type]


@final
class AnalogConv1d(_AnalogConv):
    """``nn.Conv1d`` in crossbar tiles; arguments as there, and ``hardware``."""

    _twin = nn.Conv1d
    _convolve = staticmethod(F.conv1d)


@final
class AnalogConv2d(_AnalogConv):
    """``nn.Conv2d`` in crossbar tiles; arguments as there, and ``hardware``.

    Examples:
        >>> import torch, phasegrad as pg
        >>> layer = AnalogConv2d(3, 8, 3, padding="same", groups=1, hardware=pg.presets.pcm_inference())
        >>> layer(torch.randn(2, 3, 16, 16)).shape
        torch.Size([2, 8, 16, 16])
    """

    _twin = nn.Conv2d
    _convolve = staticmethod(F.conv2d)


@final
class AnalogConv3d(_AnalogConv):
    """``nn.Conv3d`` in crossbar tiles; arguments as there, and ``hardware``."""

    _twin = nn.Conv3d
    _convolve = staticmethod(F.conv3d)
