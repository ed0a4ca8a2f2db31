"""Large products whose inputs lie on the levels of a converter, as products of bytes; see ``csrc/bytes.h``."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from phasegrad.ops import workspace
from phasegrad.ops.cpu.calls import call, optional
from phasegrad.ops.cpu.converters import table_of_units
from phasegrad.ops.native import library

_FAST = library is not None and bool(library.pg_multiplies_bytes())
_LARGE = 1 << 24  # multiplications
_MANY = 64  # inputs from which on splitting weights into bytes pays off
_SUMMED = 1 << 16  # products of bytes that fit a 32-bit sum
_COLUMNS, _QUAD, _PANEL = 32, 4, 48  # of two blocks, of a lane, and rows of a panel, as in csrc/bytes.h
_CLEAR = 100.0  # noise over rounding from which on weights have two digits
_ABOVE = 1.5  # largest weight of a column over its scale; more after programming errors and read noise is an outlier


class Conversion(NamedTuple):
    """What converts the outputs, as arguments of the kernel."""

    columns: tuple[Tensor, Tensor | None, Tensor]
    """Scale, gain, and input range."""
    settings: tuple[float, float, float, int, float, int]
    """Output noise, read noise, bound, mode, largest code and seed."""
    offset: int
    """Random stream of the first tile's noise."""


class _Inputs(NamedTuple):
    levels: Tensor | None
    squares: Tensor | None
    square_units: Tensor | None


class Weights(NamedTuple):
    """The digits of weights, and the sizes of their magnitudes."""

    digits: Tensor | None
    sizes: Tensor | None
    starts: Tensor | None
    units: Tensor
    size_units: Tensor


def pays_off(x: Tensor, w: Tensor, rows: int) -> bool:
    """Whether products of bytes are faster: the product is large, and the processor multiplies bytes."""
    return _FAST and len(x) >= _MANY and len(x) * w.numel() >= _LARGE and rows <= _SUMMED


class ByteProduct:
    """The product of large matrices as products of bytes, with the noise and the conversion of its outputs.

    Args:
        x: inputs ``[samples, in]``.
        w: weights ``[out, in]``.
        rows: rows of a tile.
        max_code: the largest code of the inputs' converter, at most 127.
        conversion: conversion of the outputs.
        kept: the same weights as bytes, by their number of digits; filled here, for later products.
    """

    def __init__(
        self, x: Tensor, w: Tensor, rows: int, max_code: float, conversion: Conversion,
        kept: dict[int, Weights | None] | None = None,
    ) -> None:  # fmt: skip
        self._x, self._w, self._rows = x.contiguous(), w.contiguous(), rows
        self._max_code, self._conversion = max_code, conversion
        self._noisy = conversion.settings[1] > 0.0
        self._tiles = -(-x.shape[1] // rows)
        self._kept = kept
        self._of_noise: tuple[_Inputs, Weights] | None = None

    def write(self, out: Tensor, code: Tensor, *, converts: bool) -> bool:
        """Write the sum of all tiles ``[samples, out]`` and the clipped outputs ``[tiles, samples, out]``.

        Args:
            out: the sum.
            code: the clipped outputs; empty without a converter.
            converts: whether inputs are converted here; otherwise they must lie on levels.

        Returns:
            False, with nothing written, if an input is on no level, or a value is not finite.
        """
        digits = _digits(self._rows, self._conversion.settings[0])
        inputs, weights = self._inputs(digits, converts=converts), self._weights(digits)
        if weights is None and digits == 2:
            digits = 3
            inputs, weights = self._inputs(digits, converts=converts), self._weights(digits)
        if inputs is None or weights is None:
            return False
        self._multiply(out, code, None, slice(0, self._tiles), inputs, weights, digits)
        return True

    def write_noise(self, out: Tensor, code: Tensor, products: Tensor, tiles: slice) -> None:
        """Add tiles whose products ``[tiles, samples, out]`` floats have given: only their read noise is from bytes."""
        if self._of_noise is None:
            inputs, weights = self._inputs(0, converts=False), self._weights(0)
            assert inputs is not None
            assert weights is not None
            self._of_noise = inputs, weights
        self._multiply(out, code, products, tiles, *self._of_noise, 0)

    def _inputs(self, digits: int, *, converts: bool) -> _Inputs | None:
        x, rows, refused = self._x, self._rows, ctypes.c_int32()
        width, input_range = -(-rows // _QUAD) * _QUAD, self._conversion.columns[2]
        padded = self._tiles * width * (len(x) + _PANEL)
        room = workspace.scratch("row of bytes", torch.uint8, torch.get_num_threads() * 6 * width)
        levels = workspace.scratch("levels", torch.uint8, padded) if digits else None
        squares = workspace.scratch("squares", torch.uint8, padded) if self._noisy else None
        units = x.new_empty(self._tiles, len(x)) if self._noisy else None
        call(
            "byte_inputs", *optional(levels, squares, units), ctypes.byref(refused), room.data_ptr(), x.data_ptr(),
            input_range.data_ptr(), *x.shape, rows, int(input_range.numel() > 1), int(converts), self._max_code, digits,
        )  # fmt: skip
        return None if refused.value else _Inputs(levels, squares, units)

    def _weights(self, digits: int) -> Weights | None:
        if self._kept is None:
            return self._pack(digits, workspace.scratch)
        if digits not in self._kept:
            self._kept[digits] = self._pack(digits, lambda _, dtype, size: torch.empty(size, dtype=dtype))
        return self._kept[digits]

    def _pack(self, digits: int, room_for: Callable[[str, torch.dtype, int], Tensor]) -> Weights | None:
        """The weights as bytes, in memory that ``room_for`` allocates."""
        w, rows, refused = self._w, self._rows, ctypes.c_int32()
        columns = -(-len(w) // _COLUMNS) * _COLUMNS
        block, plane = -(-rows // 64) * 64 * _COLUMNS, -(-rows // _QUAD) * _QUAD * columns * self._tiles
        room = workspace.scratch("block of bytes", torch.int8, torch.get_num_threads() * (digits + self._noisy) * block)
        packed = room_for("digits", torch.int8, digits * plane) if digits else None
        sizes = room_for("sizes", torch.int8, plane) if self._noisy else None
        starts = room_for("starts", torch.int32, digits * self._tiles * columns) if digits else None
        units, size_units = w.new_empty(2, self._tiles, columns)
        most = _ABOVE * self._conversion.columns[0] if digits == 2 else None
        call(
            "byte_weights", *optional(packed, sizes, starts, units, size_units), ctypes.byref(refused), room.data_ptr(),
            w.data_ptr(), *optional(most), *w.shape, rows, digits,
        )  # fmt: skip
        return None if refused.value else Weights(packed, sizes, starts, units, size_units)

    def _multiply(
        self, out: Tensor, code: Tensor, products: Tensor | None, tiles: slice, inputs: _Inputs, weights: Weights,
        digits: int,
    ) -> None:  # fmt: skip
        scale, gain, input_range = self._conversion.columns
        panel = _PANEL if out.shape[1] % 4 == 0 else 4 * _PANEL
        workers = min(torch.get_num_threads(), -(-len(out) // panel))
        room = workspace.scratch("panels", torch.float32, workers, 1 + self._noisy, panel, out.shape[1])
        table = table_of_units(self._tiles, out.shape[1])
        call(
            "byte_product", out.data_ptr(), code.data_ptr() if len(code) else None, room.data_ptr(), table.data_ptr(),
            *optional(products, inputs.levels, inputs.squares, *weights, inputs.square_units, scale, gain, input_range),
            *out.shape, self._x.shape[1], self._rows, tiles.start, tiles.stop, int(input_range.numel() > 1),
            self._max_code, digits, *self._conversion.settings, self._conversion.offset,
        )  # fmt: skip


def _digits(rows: int, output_noise: float) -> int:
    """How many bytes represent a weight: three, the precision of a float, or two under noise that hides the rest.

    Weights of 16 bits are rounded by at most ``max|w| / 65024``. The error of a product with ``rows`` independent
    rounding errors and inputs as large as their range has a standard deviation of ``max|w| max|x| sqrt(rows / 12) /
    32512``. Two bytes are used if that of the output noise, ``output_noise max|w| max|x|``, is 100 times as large: they
    add less than 0.01 % to its variance.
    """
    rounding = _ABOVE * math.sqrt(rows / 12.0) / 32512.0
    return 2 if output_noise >= _CLEAR * rounding else 3
