"""Analog counterparts of ``nn.Conv1d``, ``nn.Conv2d``, ``nn.Conv3d``."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from typing import Any, ClassVar, final

import torch.nn.functional as F
from torch import Tensor, nn

from phasegrad.crossbar import Hardware
from phasegrad.crossbar.mapping import tile_count
from phasegrad.crossbar.tilings import ConvolutionTiling
from phasegrad.nn.construction import counterpart
from phasegrad.nn.inputs import check_input
from phasegrad.nn.layer import AnalogLayer


class _AnalogConv(AnalogLayer, ABC):
    """Base class of convolutions; each output channel of each group is a column."""

    _counterpart: ClassVar[type[nn.modules.conv._ConvNd]]
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
        digital = counterpart(
            self, self._counterpart, hardware, in_channels=in_channels, out_channels=out_channels,
            kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation, groups=groups, bias=bias,
            padding_mode=padding_mode, device=device, dtype=dtype,
        )  # fmt: skip
        self._init_from_digital(digital, hardware)

    def _init_from_digital(self, digital: nn.Module, hardware: Hardware) -> None:
        super()._init_from_digital(digital, hardware)
        self._edges = tuple(digital._reversed_padding_repeated_twice)  # type: ignore[arg-type]

    @property
    def columns(self) -> int:
        """Number of outputs that share a tile; groups never share one."""
        return min(self.hardware.columns, self.out_features // self.groups)

    @property
    def _dac_count(self) -> int:
        return self.in_channels

    @property
    def tiles(self) -> int:
        """Number of crossbar tiles; each group is a separate matrix."""
        return self.groups * tile_count(self.out_features // self.groups, self.in_features, self.hardware)

    @property
    def tiling(self) -> ConvolutionTiling:
        """How the kernel is split over row tiles."""
        # Padding other than zeros is added to the input in to_rows.
        zeros = self.padding_mode == "zeros"
        return ConvolutionTiling(
            convolve=type(self)._convolve,
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.padding if zeros else (0,) * len(self.kernel_size),
            dilation=self.dilation,
            groups=self.groups,
            rows=self.hardware.rows,
            edges=self._edges if zeros else (0,) * len(self._edges),
        )

    def to_rows(self, x: Tensor) -> Tensor:
        """Reshape the input to ``[batch, channels, ...]`` and add padding other than zeros.

        Raises:
            ValueError: the number of dimensions or of channels is wrong.
        """
        space = len(self.kernel_size)
        check_input(self, x, self.weight, "[batch, in_channels, ...]")
        if x.dim() not in (space + 1, space + 2) or x.shape[-space - 1] != self.in_channels:
            raise ValueError(
                f"{type(self).__name__}: input has shape {list(x.shape)}; it must be [batch, {self.in_channels}, "
                f"{'...' if space > 1 else 'length'}] with {space} spatial dimension(s), or the same without the batch"
            )
        x = x if x.dim() == space + 2 else x.unsqueeze(0)
        return x if self.padding_mode == "zeros" else F.pad(x, self._edges, mode=self.padding_mode)

    def _from_rows(self, y: Tensor, x: Tensor) -> Tensor:
        return y if x.dim() == len(self.kernel_size) + 2 else y.squeeze(0)

    def _make_digital(self) -> nn.Module:
        options = (self.stride, self.padding, self.dilation, self.groups, self.bias is not None, self.padding_mode)
        sizes = (self.in_channels, self.out_channels, self.kernel_size)
        return self._counterpart(*sizes, *options, device="meta")  # type: ignore[arg-type]


@final
class AnalogConv1d(_AnalogConv):
    """``nn.Conv1d`` in crossbar tiles: ``[batch, in_channels, length] -> [batch, out_channels, length]``.

    The arguments are those of ``nn.Conv1d`` and ``hardware``. An input without a batch is accepted too.

    Raises:
        ValueError: ``nn.Conv1d`` refuses an option.
    """

    _counterpart = nn.Conv1d
    _convolve = staticmethod(F.conv1d)


@final
class AnalogConv2d(_AnalogConv):
    """``nn.Conv2d`` in crossbar tiles: ``[batch, in_channels, height, width] -> [batch, out_channels, height, width]``.

    The arguments are those of ``nn.Conv2d`` and ``hardware``. An input without a batch is accepted too.

    Raises:
        ValueError: ``nn.Conv2d`` refuses an option.

    Examples:
        >>> import torch, phasegrad as pg
        >>> layer = AnalogConv2d(3, 8, 3, padding="same", groups=1, hardware=pg.presets.pcm_inference())
        >>> layer(torch.randn(2, 3, 16, 16)).shape
        torch.Size([2, 8, 16, 16])
    """

    _counterpart = nn.Conv2d
    _convolve = staticmethod(F.conv2d)


@final
class AnalogConv3d(_AnalogConv):
    """``nn.Conv3d`` in crossbar tiles: ``[batch, in_channels, ...] -> [batch, out_channels, ...]``.

    The three spatial dimensions are depth, height and width. The arguments are those of ``nn.Conv3d`` and ``hardware``.
    An input without a batch is accepted too.

    Raises:
        ValueError: ``nn.Conv3d`` refuses an option.
    """

    _counterpart = nn.Conv3d
    _convolve = staticmethod(F.conv3d)
