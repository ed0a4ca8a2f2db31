"""The op ``tile_linear`` for inputs one after another, such as the hidden states of a sequence, and one matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from phasegrad.ops.cpu.byte_product import Weights
from phasegrad.ops.cpu.product import tile_linear
from phasegrad.ops.direct import KERNELS, bypasses, call, is_plain

_kernel: Callable[..., tuple[Tensor, Tensor, Tensor]] = tile_linear


@final
class RepeatedProduct:
    """The op with one matrix, which is checked once and converted to bytes once; nothing records a gradient.

    The caller does not write to the matrix meanwhile.

    Args:
        before: the arguments of the op between the inputs and the seed.
        after: the arguments after the seed; the matrix is read unchanged.
    """

    def __init__(self, before: tuple[Any, ...], after: tuple[Any, ...]) -> None:
        self._before, self._after = before, after
        self._checked: tuple[torch.Size, torch.dtype] | None = None
        self._bytes: dict[int, Weights | None] = {}

    def __call__(self, x: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs and the clipped outputs for inputs ``[n, in]``."""
        if self._checked == (x.shape, x.dtype):
            return _kernel(x, *self._before, seed, *self._after, kept=self._bytes)[:2]
        result = call("tile_linear", x, *self._before, seed, *self._after)[:2]
        if "tile_linear" in KERNELS and bypasses() and is_plain(x):
            self._checked = (x.shape, x.dtype)
        return result
