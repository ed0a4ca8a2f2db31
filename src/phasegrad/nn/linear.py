"""Analog counterparts of ``nn.Linear`` and of linear layers that store the transposed weight."""

from __future__ import annotations

from abc import ABC
from typing import Any, final

import torch
from torch import Tensor, nn

from phasegrad.crossbar import Hardware
from phasegrad.crossbar.tilings import LinearTiling
from phasegrad.nn.construction import counterpart
from phasegrad.nn.inputs import check_input
from phasegrad.nn.layer import AnalogLayer
from phasegrad.stores.layout import Layout


class _MatrixProduct(AnalogLayer, ABC):
    """Base class of linear layers: the last dimension of the input is multiplied by the weight matrix."""

    _options = ()

    @property
    def tiling(self) -> LinearTiling:
        """How the inputs are split over row tiles."""
        return LinearTiling(self.hardware.rows)

    @property
    def _dac_count(self) -> int:
        return self.in_features

    def to_rows(self, x: Tensor) -> Tensor:
        """Reshape the input to ``[rows, in]``.

        Raises:
            ValueError: the last dimension of the input is not ``in_features``.
        """
        check_input(self, x, self.weight, "[..., in_features]")
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"{type(self).__name__}: input has shape {list(x.shape)}; its last dimension must be in_features = "
                f"{self.in_features}"
            )
        return x if x.dim() == 2 else x.reshape(-1, x.shape[-1])

    def _from_rows(self, y: Tensor, x: Tensor) -> Tensor:
        return y if x.dim() == 2 else y.view(*x.shape[:-1], y.shape[1])

    def extra_repr(self) -> str:
        """The sizes of the layer, followed by the fields of [`AnalogLayer`][phasegrad.nn.AnalogLayer]."""
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{sizes}{super().extra_repr()}"


@final
class AnalogLinear(_MatrixProduct):
    """``nn.Linear`` in crossbar tiles: ``[..., in_features] -> [..., out_features]``.

    Args:
        in_features: size of each input.
        out_features: size of each output.
        bias: whether a digital bias is added.
        device: as in torch.
        dtype: as in torch.
        hardware: the hardware to run on.

    Raises:
        TypeError: ``hardware`` is not a [`Hardware`][phasegrad.Hardware].

    Examples:
        >>> import torch, phasegrad as pg
        >>> layer = AnalogLinear(64, 10, hardware=pg.presets.pcm_inference())
        >>> layer(torch.randn(3, 5, 64)).shape
        torch.Size([3, 5, 10])
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None,
        *, hardware: Hardware,
    ) -> None:  # fmt: skip
        arguments = {"in_features": in_features, "out_features": out_features, "bias": bias}
        digital = counterpart(self, nn.Linear, hardware, **arguments, device=device, dtype=dtype)
        self._init_from_digital(digital, hardware)

    @property
    def weight_matrix(self) -> Tensor:
        """The parameter ``weight`` itself, ``[out, in]``."""
        return self.weight

    def _make_digital(self) -> nn.Module:
        return nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")


@final
class AnalogTransposedLinear(_MatrixProduct):
    """A linear layer with weight ``[in, out]`` in crossbar tiles: ``[..., nx] -> [..., nf]``.

    It is the counterpart of Hugging Face's ``Conv1D``, which GPT-2 uses, and its constructor has the same order:
    outputs first. The parameter keeps its shape ``[in, out]``; its transpose is mapped to the tiles.

    Args:
        nf: size of each output.
        nx: size of each input.
        hardware: the hardware to run on.

    Examples:
        >>> import torch, phasegrad as pg
        >>> layer = AnalogTransposedLinear(10, 64, hardware=pg.presets.pcm_inference())
        >>> tuple(layer.weight.shape), tuple(layer(torch.randn(3, 5, 64)).shape)
        ((64, 10), (3, 5, 10))
    """

    def __init__(self, nf: int, nx: int, *, hardware: Hardware) -> None:
        self._init_from_digital(counterpart(self, TransposedLinear, hardware, nf=nf, nx=nx), hardware)

    def _init_from_digital(self, digital: nn.Module, hardware: Hardware) -> None:
        self.counterpart = type(digital)
        super()._init_from_digital(digital, hardware)

    @property
    def layout(self) -> Layout:
        """How the parameter ``weight`` is arranged as a matrix ``[out, in]``."""
        return Layout(inputs_first=True)

    def _initialise(self, digital: nn.Module) -> None:
        TransposedLinear.reset_parameters(digital)  # type: ignore[arg-type]  # Conv1D has no method of its own

    def _make_digital(self) -> nn.Module:
        with torch.device("meta"):
            return self.counterpart(self.out_features, self.in_features)


class TransposedLinear(nn.Module):
    """The digital counterpart of an ``AnalogTransposedLinear`` that its constructor created.

    Args:
        nf: size of each output.
        nx: size of each input.
    """

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(torch.empty(nx, nf)), nn.Parameter(torch.empty(nf))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the weight and the bias as GPT-2 does."""
        nn.init.normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply the last dimension by the weight: ``[..., nx] -> [..., nf]``."""
        return x @ self.weight + self.bias
