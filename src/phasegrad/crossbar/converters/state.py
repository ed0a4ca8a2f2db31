"""Errors of the physical converters of a layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from phasegrad.crossbar import streams
from phasegrad.crossbar.converters.base import OutputConverter, Tolerance
from phasegrad.crossbar.converters.dac import InputConverter
from phasegrad.crossbar.materialisation import loses_values
from phasegrad.crossbar.streams import draw_seed
from phasegrad.ops.direct import call


@final
class Converters(nn.Module):
    """Errors of the physical converters of a layer, as float32 buffers in the state dict.

    They are drawn under ``torch.manual_seed`` when a layer is created, and drawn again under the seed of the chip when
    it is programmed: another chip has other converters. ``.half()`` and ``.to(dtype)`` never round them.

    Attributes:
        outputs: errors ``[errors, tiles, converters]`` of the ADCs of every tile along the inputs, slice by slice;
            ``None`` if the ADC has no errors.
        inputs: errors ``[errors, converters]`` of the DAC of every input, which serves all tiles along the outputs and
            all kernel positions of a channel; ``None`` if the DAC has no errors.
    """

    outputs: Tensor | None
    inputs: Tensor | None

    def __init__(
        self, adc: OutputConverter | None, dac: InputConverter | None, tiles: int, outputs: int, columns: int,
        dac_count: int, device: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self._tolerances = (adc.errors if adc else (), dac.errors if dac else ())
        self._columns = (outputs, columns, adc.columns_per_converter if adc else 1)
        place = _places(*self._columns)
        drawn = {"outputs": (tiles, int(place[-1]) + 1 if outputs else 0), "inputs": (dac_count,)}
        for (name, shape), tolerances in zip(drawn.items(), self._tolerances, strict=True):
            self.register_buffer(name, _means(tolerances, shape, device) if _any(tolerances) else None)
        self.register_buffer("_place", place.to(device), persistent=False)

    _place: Tensor

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Converters:
        def move(buffer: Tensor) -> Tensor:
            target = fn(buffer)
            return target if target.dtype == buffer.dtype else buffer.to(target.device)

        super()._apply(move, recurse)
        if loses_values(fn):
            self._restore()
        return self

    def _restore(self) -> None:
        """Set all buffers to the values of new converters."""
        with torch.no_grad():
            self._place.copy_(_places(*self._columns))
            for buffer, tolerances in zip((self.outputs, self.inputs), self._tolerances, strict=True):
                if buffer is not None:
                    buffer.copy_(_means(tolerances, tuple(buffer.shape[1:]), buffer.device))
            if self.differ:
                self.draw(draw_seed(self._place.device))

    def _load_from_state_dict(self, *arguments: Any, **named: Any) -> None:
        super()._load_from_state_dict(*arguments, **named)
        loaded = self.inputs if self.outputs is None else self.outputs
        if loaded is not None and loaded.device != self._place.device:  # assigned, not copied
            self._place = _places(*self._columns).to(loaded.device)

    @property
    def differ(self) -> bool:
        """Whether two converters may have different errors."""
        return any(sd > 0.0 for tolerances in self._tolerances for _, sd in tolerances)

    @torch.no_grad()
    def draw(self, seed: Tensor) -> None:
        """Draw the errors of every converter."""
        for i, (buffer, tolerances) in enumerate(zip((self.outputs, self.inputs), self._tolerances, strict=True)):
            if buffer is not None:
                buffer.copy_(draw_errors(tolerances, tuple(buffer.shape[1:]), seed, streams.CONVERTERS + i))

    @property
    def of_columns(self) -> Tensor | None:
        """Errors ``[errors, tiles, out]`` of the converter of each column."""
        return None if self.outputs is None else self.outputs.index_select(-1, self._place)


def draw_errors(tolerances: Sequence[Tolerance], shape: tuple[int, ...], seed: Tensor, offset: int) -> Tensor:
    """Draw independent errors ``[errors, *shape]`` of physical converters."""
    means, each = _means(tolerances, shape, seed.device), (-1, *[1] * len(shape))
    sd = torch.tensor([sd for _, sd in tolerances], dtype=torch.float32, device=seed.device).view(each)
    return means + sd * call("normal", seed, offset, tuple(means.shape))


def _means(tolerances: Sequence[Tolerance], shape: tuple[int, ...], device: Any) -> Tensor:
    means = torch.tensor([mean for mean, _ in tolerances], dtype=torch.float32, device=device)
    return means.view(-1, *[1] * len(shape)).repeat(1, *shape)


def _any(tolerances: Sequence[Tolerance]) -> bool:
    return any(value != 0.0 for tolerance in tolerances for value in tolerance)


def _places(outputs: int, columns: int, shared: int) -> Tensor:
    """Index of the converter of each column; neighbours in a tile share one."""
    column = torch.arange(outputs, device="cpu")
    return column // columns * -(-columns // shared) + column % columns // shared
