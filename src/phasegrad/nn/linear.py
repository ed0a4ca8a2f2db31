"""Analog twin of ``nn.Linear``."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from phasegrad.crossbar import Hardware
from phasegrad.crossbar.product import LinearTiles
from phasegrad.nn.layer import AnalogLayer


@final
class AnalogLinear(AnalogLayer):
    """``nn.Linear`` in crossbar tiles: ``[..., in_features] -> [..., out_features]``.

    Args:
        in_features: size of each input.
        out_features: size of each output.
        bias: whether a digital bias is added.
        device: as in torch.
        dtype: as in torch.
        hardware: the hardware to run on.

    Examples:
        >>> import torch, phasegrad as pg
        >>> layer = AnalogLinear(64, 10, hardware=pg.presets.pcm_inference())
        >>> layer(torch.randn(3, 5, 64)).shape
        torch.Size([3, 5, 10])
    """

    _options = ()

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None,
        *, hardware: Hardware,
    ) -> None:  # fmt: skip
        self._adopt(nn.Linear(in_features, out_features, bias, device, dtype), hardware)

    @property
    def _tiles(self) -> LinearTiles:
        return LinearTiles(self.hardware.rows)

    @property
    def _lines(self) -> int:
        return self.in_features

    def _to_rows(self, x: Tensor) -> Tensor:
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"AnalogLinear: input has shape {list(x.shape)}; its last dimension must be in_features = "
                f"{self.in_features}"
            )
        return x if x.dim() == 2 else x.reshape(-1, x.shape[-1])

    def _from_rows(self, y: Tensor, x: Tensor) -> Tensor:
        return y if x.dim() == 2 else y.view(*x.shape[:-1], y.shape[1])

    @property
    def patches(self) -> None:
        """None: each row is a sample."""

    def _transposed_exactly(self, d: Tensor, shape: torch.Size, weight: Tensor) -> Tensor:
        return d @ weight

    def _transposed_by_tiles(self, d: Tensor, shape: torch.Size, seed: Tensor) -> Tensor:
        return self._turned_product(d, self._held(seed), seed)

    def _digital(self) -> nn.Module:
        return nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")

    def extra_repr(self) -> str:
        """The layer's sizes, and what :class:`AnalogLayer` adds."""
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{sizes}{super().extra_repr()}"
