"""Draws, converters and weights on the CPU."""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from phasegrad.ops import reference, workspace
from phasegrad.ops.cpu.calls import CHUNK, all_floats, call, doubles, pointers


def normal(seed: Tensor, offset: int, size: Sequence[int]) -> Tensor:
    out = torch.empty(tuple(size), dtype=torch.float32)
    call("normal", out.data_ptr(), out.numel(), int(seed), offset)
    return out


def uniform(seed: Tensor, offset: int, size: Sequence[int]) -> Tensor:
    out = torch.empty(tuple(size), dtype=torch.float32)
    call("uniform", out.data_ptr(), out.numel(), int(seed), offset)
    return out


def dac(x: Tensor, range: Tensor, max_code: float, decay: float, keep: float) -> Tensor:
    if not all_floats(x, range):
        return reference.dac(x, range, max_code, decay, keep)
    # Each row, which may have its own range, stays contiguous.
    order = reference.memory_order(x) if x.dim() > 3 else torch.contiguous_format
    x, range = x.contiguous(memory_format=order), range.contiguous()
    rows, out = range.numel(), torch.empty_like(x, memory_format=order)
    inner = x.numel() // rows if rows else 0
    call("dac", out.data_ptr(), x.data_ptr(), range.data_ptr(), rows, inner, int(rows > 1), max_code)
    return out


def dac_backward(grad: Tensor, x: Tensor, range: Tensor, decay: float, keep: float) -> tuple[Tensor, Tensor]:
    if not all_floats(grad, x, range) or range.numel() != 1:
        return reference.dac_backward(grad, x, range, decay, keep)
    order = reference.memory_order(x)
    grad, x = (t.contiguous(memory_format=order) for t in (grad, x))
    grad_x, grad_range = torch.empty_like(x, memory_format=order), torch.zeros(range.shape, dtype=torch.float64)
    partial = workspace.scratch("sums", torch.float64, 2 * -(-x.numel() // CHUNK))
    call(
        "dac_backward", grad_x.data_ptr(), grad_range.data_ptr(), partial.data_ptr(), grad.data_ptr(), x.data_ptr(),
        float(range), x.numel(), decay, keep,
    )  # fmt: skip
    return grad_x, grad_range.float()


def adc(
    y: Sequence[Tensor],
    v: Sequence[Tensor],
    scale: Tensor,
    gain: Tensor | None,
    input_range: Tensor,
    bound: Tensor,
    seed: Tensor,
    offset: int,
    output_noise: float,
    read_noise: float,
    mode: int,
    max_code: float,
) -> tuple[Tensor, Tensor]:
    if not all_floats(*y, *v, scale, input_range, bound, *([] if gain is None else [gain])):
        return reference.adc(
            y, v, scale, gain, input_range, bound, seed, offset, output_noise, read_noise, mode, max_code
        )
    y, v = [t.contiguous() for t in y], [t.contiguous() for t in v]
    columns = (scale.contiguous(), None if gain is None else gain.contiguous(), input_range.contiguous())
    out = torch.empty(y[0].shape, dtype=torch.float32)
    code = torch.empty((len(y), *out.shape) if mode else (0,), dtype=torch.int8)
    noise = (output_noise, read_noise, float(bound), mode, max_code, int(seed))
    convert(out, code, y, v, columns, 0, noise, offset)
    return out, code


def convert(
    out: Tensor,
    code: Tensor,
    y: Sequence[Tensor],
    v: Sequence[Tensor],
    columns: tuple[Tensor, Tensor | None, Tensor],
    first: int,
    settings: tuple[Any, ...],
    offset: int,
) -> None:
    """Convert tiles ``first``, ``first + 1``, ... and add their outputs to ``out``; tile 0 overwrites it."""
    scale, gain, input_range = columns
    inner, per_row, table = math.prod(out.shape[2:]), input_range.numel() > 1, None
    if inner == 1 and not per_row:  # units repeat from row to row
        table = table_of_units(len(y), out.shape[1]).data_ptr()
    call(
        "adc", out.data_ptr(), code[first].data_ptr() if code.dim() > 1 else None, table, pointers(y),
        pointers(v) if v else None, scale[first].data_ptr(),
        None if gain is None else gain[first].data_ptr(),
        input_range.data_ptr(), len(y), out.shape[0], out.shape[1], inner, int(per_row), int(first > 0),
        *settings, offset + first,
    )  # fmt: skip


def table_of_units(tiles: int, columns: int) -> Tensor:
    """Room for the units of columns that share an input range."""
    return workspace.scratch("units", torch.float32, 5, tiles, CHUNK + columns + 64)


def adc_backward(grad: Tensor, code: Tensor) -> Tensor:
    if not all_floats(grad):
        return reference.adc_backward(grad, code)
    grad, code = grad.contiguous(), code.contiguous()
    out = torch.empty(code.shape, dtype=torch.float32)
    for part, tile in zip(out, code, strict=True):
        call("adc_backward", part.data_ptr(), grad.data_ptr(), tile.data_ptr(), grad.numel())
    return out


def weight_scale(
    w: Tensor, rows: int, columns: int, per_column: bool, clip_sigma: float, clip_per_channel: bool
) -> tuple[Tensor, Tensor]:
    if not all_floats(w):
        return reference.weight_scale(w, rows, columns, per_column, clip_sigma, clip_per_channel)
    w = w.contiguous()
    out_features, in_features = w.shape
    scale = torch.empty((-(-in_features // rows), out_features), dtype=torch.float32)
    clip = torch.empty(out_features, dtype=torch.float32)
    sums = workspace.scratch("sums", torch.float64, 2 * out_features)
    call(
        "weight_scale", scale.data_ptr(), clip.data_ptr(), sums.data_ptr(), w.data_ptr(), out_features, in_features,
        rows, columns, int(per_column), clip_sigma, int(clip_per_channel),
    )  # fmt: skip
    return scale, clip


def noisy_weights(
    w: Tensor,
    scale: Tensor,
    clip: Tensor,
    level: Tensor,
    seed: Tensor,
    offset: int,
    rows: int,
    noise: Sequence[float],
    drop_connect: float,
) -> Tensor:
    if not all_floats(w, scale, clip):
        return reference.noisy_weights(w, scale, clip, level, seed, offset, rows, noise, drop_connect)
    return perturbed(w.new_empty(w.shape), w, scale, clip, float(level), int(seed), offset, rows, noise, drop_connect)


def perturbed(
    out: Tensor, w: Tensor, scale: Tensor, clip: Tensor, level: float, seed: int, offset: int, rows: int,
    noise: Sequence[float], drop_connect: float,
) -> Tensor:  # fmt: skip
    w, scale, clip = w.contiguous(), scale.contiguous(), clip.contiguous()
    call(
        "noisy_weights", out.data_ptr(), w.data_ptr(), scale.data_ptr(), clip.data_ptr(), *w.shape, rows, level,
        *_pieces(tuple(noise)), drop_connect, seed, offset,
    )  # fmt: skip
    return out


@functools.lru_cache(maxsize=256)
def _pieces(noise: tuple[float, ...]) -> tuple[ctypes.Array[ctypes.c_double], int]:
    """The noise of weights as the kernel reads it, and its number of parabolas."""
    encoded = (0.0, *noise) if len(noise) == 3 else noise
    return doubles(encoded), len(encoded) // 4


def noisy_weights_backward(grad: Tensor, w: Tensor, clip: Tensor) -> Tensor:
    if not all_floats(grad, w, clip):
        return reference.noisy_weights_backward(grad, w, clip)
    out = grad.clone(memory_format=torch.contiguous_format)
    straight_through(out, w.contiguous(), clip.contiguous())
    return out


def straight_through(grad: Tensor, w: Tensor, clip: Tensor) -> None:
    """Zero a gradient, in place, where a descent step would push clipped weights further out."""
    call("noisy_weights_backward", grad.data_ptr(), w.data_ptr(), clip.data_ptr(), *w.shape)
