"""The physical converters of a layer: what each one's errors are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from phasegrad.crossbar import streams
from phasegrad.crossbar.converters.base import OutputConverter, Tolerance
from phasegrad.crossbar.converters.dac import InputConverter
from phasegrad.ops.direct import call


@final
class Converters(nn.Module):
    """The errors of a layer's physical converters: drawn once, float32 buffers of the state dict.

    Drawn when a layer is made, under ``torch.manual_seed``, and anew when it is programmed, under the seed of the chip:
    another chip has other converters. ``.half()`` and ``.to(dtype)`` never round them.

    Attributes:
        outputs: ``[errors, tiles, converters]``, of every tile along the inputs (slice after slice); ``None`` where the
            ADC has no errors.
        inputs: ``[errors, lines]``, of every input: a word line's converter serves all tiles side by side, and all
            kernel positions of a channel. ``None`` where the DAC has no errors.
    """

    outputs: Tensor | None
    inputs: Tensor | None

    def __init__(
        self, adc: OutputConverter | None, dac: InputConverter | None, tiles: int, outputs: int, columns: int,
        dac_count: int, device: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self._tolerances = (adc.errors if adc else (), dac.errors if dac else ())
        place = _places(outputs, columns, adc.columns_per_converter if adc else 1)
        drawn = {"outputs": (tiles, int(place[-1]) + 1), "inputs": (dac_count,)}
        for (name, shape), tolerances in zip(drawn.items(), self._tolerances, strict=True):
            self.register_buffer(name, _means(tolerances, shape, device) if _any(tolerances) else None)
        self.register_buffer("_place", place.to(device), persistent=False)

    _place: Tensor

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Converters:
        def move(buffer: Tensor) -> Tensor:
            target = fn(buffer)
            return target if target.dtype == buffer.dtype else buffer.to(target.device)

        return super()._apply(move, recurse)

    @property
    def differ(self) -> bool:
        """Whether two converters may have different errors."""
        return any(sd > 0.0 for tolerances in self._tolerances for _, sd in tolerances)

    @torch.no_grad()
    def draw(self, seed: Tensor) -> None:
        """Draw every converter's errors."""
        for i, (buffer, tolerances) in enumerate(zip((self.outputs, self.inputs), self._tolerances, strict=True)):
            if buffer is not None:
                buffer.copy_(draw_errors(tolerances, tuple(buffer.shape[1:]), seed, streams.CONVERTERS + i))

    @property
    def of_columns(self) -> Tensor | None:
        """``[errors, tiles, out]``: what the converter of each column has."""
        return None if self.outputs is None else self.outputs.index_select(-1, self._place)


def draw_errors(tolerances: Sequence[Tolerance], shape: tuple[int, ...], seed: Tensor, offset: int) -> Tensor:
    """Errors ``[errors, *shape]`` of physical converters, each drawn on its own."""
    means, each = _means(tolerances, shape, seed.device), (-1, *[1] * len(shape))
    sd = torch.tensor([sd for _, sd in tolerances], dtype=torch.float32, device=seed.device).view(each)
    return means + sd * call("normal", seed, offset, tuple(means.shape))


def _means(tolerances: Sequence[Tolerance], shape: tuple[int, ...], device: Any) -> Tensor:
    means = torch.tensor([mean for mean, _ in tolerances], dtype=torch.float32, device=device)
    return means.view(-1, *[1] * len(shape)).repeat(1, *shape)


def _any(tolerances: Sequence[Tolerance]) -> bool:
    return any(value != 0.0 for tolerance in tolerances for value in tolerance)


def _places(outputs: int, columns: int, shared: int) -> Tensor:
    """Which converter each column has: neighbours in a tile share one."""
    column = torch.arange(outputs)
    return column // columns * -(-columns // shared) + column % columns // shared
