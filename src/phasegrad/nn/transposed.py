"""Analog counterparts of ``nn.ConvTranspose1d``, ``nn.ConvTranspose2d``, ``nn.ConvTranspose3d``."""

from __future__ import annotations

from abc import ABC
from typing import Any, ClassVar, cast, final

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from phasegrad.crossbar import Hardware
from phasegrad.crossbar.tile_weights import TileWeights
from phasegrad.crossbar.tilings import ConvolutionTiling
from phasegrad.nn import layer_ranges
from phasegrad.nn.construction import counterpart
from phasegrad.nn.conv import _AnalogConv
from phasegrad.ops.profiling import profiled
from phasegrad.stores.base import range_name
from phasegrad.stores.layout import Layout


class _AnalogConvTranspose(_AnalogConv, ABC):
    """Base class of transposed convolutions.

    The channels of one input position drive the rows; each column is an output channel at one kernel position. The
    analog product is therefore a convolution with a kernel of one position. Every column has its own converter, and
    overlapping outputs are added digitally.
    """

    _counterpart: ClassVar[Any]
    _options = (*_AnalogConv._options, "output_padding")

    output_padding: tuple[int, ...]

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1, padding: int | tuple[int, ...] = 0,
        output_padding: int | tuple[int, ...] = 0, groups: int = 1, bias: bool = True,
        dilation: int | tuple[int, ...] = 1, padding_mode: str = "zeros", device: Any = None, dtype: Any = None,
        *, hardware: Hardware,
    ) -> None:  # fmt: skip
        digital = counterpart(
            self, self._counterpart, hardware, in_channels=in_channels, out_channels=out_channels,
            kernel_size=kernel_size, stride=stride, padding=padding, output_padding=output_padding, groups=groups,
            bias=bias, dilation=dilation, padding_mode=padding_mode, device=device, dtype=dtype,
        )  # fmt: skip
        self._init_from_digital(digital, hardware)

    @property
    def layout(self) -> Layout:
        """How the parameter ``weight`` is arranged as a matrix ``[out, in]``."""
        return Layout(inputs_first=True, groups=self.groups)

    @property
    def tiling(self) -> ConvolutionTiling:
        """A convolution with a kernel of one position: one sample per position and group of each image."""
        one = (1,) * len(self.kernel_size)
        zeros = (0,) * len(one)
        edges = zeros * 2
        return ConvolutionTiling(
            type(self)._convolve, one, one, zeros, one, self.groups, self.hardware.rows, edges
        )  # fmt: skip

    @profiled(range_name("forward"))
    def forward(  # type: ignore[override]
        self, input: Tensor, output_size: list[int] | None = None, weights: TileWeights | None = None
    ) -> Tensor:  # fmt: skip
        """Compute the layer's output on the hardware.

        Args:
            input: ``[batch, in_channels, ...]`` or ``[in_channels, ...]``.
            output_size: sizes of the spatial dimensions, as in torch, if the stride makes them ambiguous.
            weights: the result of ``read``, to share one read between products; ``None`` to read now.

        Raises:
            ValueError: the shape of the input is wrong, or ``output_size`` is not possible.
        """
        rows, padding = self.to_rows(input), cast("tuple[int, ...]", self.padding)
        sizes = (list(self.stride), list(padding), list(self.kernel_size), len(self.kernel_size))
        extra = _ConvTransposeNd._output_padding(self, input, output_size, *sizes, list(self.dilation))  # type: ignore[arg-type]
        self.take_writes()
        if self.range_is_stale:
            layer_ranges.widen_input_range(self, rows)
        y = self._add_overlaps(self.store.output(rows, None, weights))
        edges = [edge for p, e in zip(padding, extra, strict=True) for edge in (e - p, -p)]
        y = F.pad(y, edges[::-1])  # a negative padding crops
        y = y if self.bias is None else y + self.bias.view(-1, *[1] * len(self.kernel_size))
        return self._from_rows(y, input)

    def _add_overlaps(self, y: Tensor) -> Tensor:
        """Add the outputs of all input positions, ``[batch, channels * kernel positions, ...]``, where they overlap."""
        if len(self.kernel_size) == 3:
            return self._add_overlaps_3d(y)
        if len(self.kernel_size) == 1:
            return _fold(y.unsqueeze(-1), *((a, 1) for a in self._geometry(0))).squeeze(-1)
        return _fold(y, *zip(self._geometry(0), self._geometry(1), strict=True))

    def _add_overlaps_3d(self, y: Tensor) -> Tensor:
        """Add overlaps within each plane first, then along the depth."""
        batch, depth = len(y), y.shape[2]
        planes = y.movedim(2, 1).flatten(0, 1)
        planes = _fold(planes, *zip(self._geometry(1), self._geometry(2), strict=True))
        columns = planes.unflatten(0, (batch, depth)).unflatten(2, (self.out_channels, -1))
        columns = columns.permute(0, 2, 4, 5, 3, 1)  # batch, channels, height, width, kernel positions, depth
        volume = _fold(columns.flatten(1, 4).unsqueeze(-1), *((a, 1) for a in self._geometry(0))).squeeze(-1)
        return volume.unflatten(1, columns.shape[1:4]).movedim(-1, 2)

    def _geometry(self, axis: int) -> tuple[int, int, int]:
        return self.kernel_size[axis], self.dilation[axis], self.stride[axis]

    def _make_digital(self) -> nn.Module:
        options = (self.stride, self.padding, self.output_padding, self.groups, self.bias is not None, self.dilation)
        return self._counterpart(self.in_channels, self.out_channels, self.kernel_size, *options, device="meta")


def _fold(y: Tensor, kernel: tuple[int, ...], dilation: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Add ``[batch, channels * kernel positions, height, width]`` into images without padding."""
    sizes = zip(y.shape[2:], kernel, dilation, stride, strict=True)
    size = tuple((n - 1) * s + d * (k - 1) + 1 for n, k, d, s in sizes)
    return F.fold(y.flatten(2), size, kernel, dilation, 0, stride)


@final
class AnalogConvTranspose1d(_AnalogConvTranspose):
    """``nn.ConvTranspose1d`` in crossbar tiles: ``[batch, in_channels, ...] -> [batch, out_channels, ...]``.

    The arguments are those of ``nn.ConvTranspose1d`` and ``hardware``. Rows are input channels, columns are output
    channels at each kernel position; overlaps are added digitally.
    """

    _counterpart = nn.ConvTranspose1d
    _convolve = staticmethod(F.conv1d)


@final
class AnalogConvTranspose2d(_AnalogConvTranspose):
    """``nn.ConvTranspose2d`` in crossbar tiles: ``[batch, in_channels, ...] -> [batch, out_channels, ...]``.

    The arguments are those of ``nn.ConvTranspose2d`` and ``hardware``. Rows are input channels, columns are output
    channels at each kernel position; overlaps are added digitally.

    Examples:
        >>> import torch, phasegrad as pg
        >>> layer = AnalogConvTranspose2d(8, 3, 4, stride=2, padding=1, hardware=pg.presets.pcm_inference())
        >>> layer(torch.randn(2, 8, 5, 5)).shape, layer.out_features, layer.in_features
        (torch.Size([2, 3, 10, 10]), 48, 8)
    """

    _counterpart = nn.ConvTranspose2d
    _convolve = staticmethod(F.conv2d)


@final
class AnalogConvTranspose3d(_AnalogConvTranspose):
    """``nn.ConvTranspose3d`` in crossbar tiles: ``[batch, in_channels, ...] -> [batch, out_channels, ...]``.

    The arguments are those of ``nn.ConvTranspose3d`` and ``hardware``. Rows are input channels, columns are output
    channels at each kernel position; overlaps are added digitally.
    """

    _counterpart = nn.ConvTranspose3d
    _convolve = staticmethod(F.conv3d)
