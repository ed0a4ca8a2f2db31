"""The product of a matrix's row-tiles on CUDA, with its converters and the read of its weights.

The products themselves are cuBLAS's. Their operands have the dtype of the inputs; sums, scales, noise and conversion
are float32. Inputs enter the product as levels of their DAC, integers that even bfloat16 represents exactly, and the
conversion of the outputs multiplies by the step. Weight noise is drawn once, into the matrix as it was read.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from phasegrad.ops import reference
from phasegrad.ops.row_tiles import by_tile, tile_groups
from phasegrad.ops.triton.converters import Outputs, convert, converted_inputs, unclipped
from phasegrad.ops.triton.launch import all_taken
from phasegrad.ops.triton.weights import as_read, straight_through

CACHED = 1 << 22
"""Outputs, each of four bytes, that stay in the second-level cache between a product and its conversion."""


def _multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    """``a @ b`` of each tile ``[tiles, ...]``, in the dtype of ``out``, which sums have too."""
    one = len(out) == 1
    product, (a, b, out) = (torch.mm, (a[0], b[0], out[0])) if one else (torch.bmm, (a, b, out))
    if a.dtype == out.dtype:
        product(a, b, out=out)
    elif a.device.type == "cuda":
        product(a, b, out_dtype=out.dtype, out=out)
    else:
        product(a.to(out.dtype), b.to(out.dtype), out=out)


def tile_linear(
    x: Tensor,
    w: Tensor,
    scale: Tensor,
    clip: Tensor | None,
    level: Tensor | None,
    gain: Tensor | None,
    input_range: Tensor,
    dac_max_code: float,
    decay: float,
    keep: float,
    bound: Tensor,
    seed: Tensor,
    weight_offset: int,
    offset: int,
    rows: int,
    noise: Sequence[float],
    drop_connect: float,
    output_noise: float,
    read_noise: float,
    mode: int,
    adc_max_code: float,
) -> tuple[Tensor, Tensor, Tensor]:
    settings = (output_noise, read_noise, mode, adc_max_code)
    if not all_taken(x, w, scale, clip, level, gain, input_range, bound):
        conversion = (input_range, dac_max_code, decay, keep, bound, seed)
        weights = (weight_offset, offset, rows, noise, drop_connect)
        return reference.tile_linear(x, w, scale, clip, level, gain, *conversion, *weights, *settings)
    driven = converted_inputs(x, input_range, dac_max_code, levels=True) if dac_max_code > 0 else x
    if clip is not None and level is not None:
        read = as_read(w, scale, clip, level, seed, weight_offset, rows, noise, drop_connect, x.dtype)
    else:
        read = w.to(x.dtype)
    columns = (scale.contiguous(), None if gain is None else gain.contiguous(), input_range.contiguous())
    outputs = Outputs(*columns, bound, seed, offset, *settings)
    tiles, whole = len(scale), w.shape[1] // rows
    out = torch.empty(len(x), len(w), dtype=torch.float32 if tiles > 1 else x.dtype, device=x.device)
    code = torch.empty((tiles, *out.shape) if mode else (0,), dtype=torch.int8, device=x.device)
    groups = tile_groups(tiles, whole, out.numel(), CACHED)
    y = torch.empty(groups[0].stop, *out.shape, dtype=torch.float32, device=x.device)
    v = torch.empty_like(y) if read_noise > 0 else None
    squares = (driven.square(), read.abs()) if read_noise > 0 else None
    for group in groups:
        part = slice(0, group.stop - group.start)
        _multiply(by_tile(driven, group, rows), by_tile(read, group, rows).transpose(1, 2), y[part])
        if v is not None and squares is not None:
            x_square, magnitude = (by_tile(m, group, rows) for m in squares)
            _multiply(x_square, magnitude.transpose(1, 2), v[part])
        convert(out, code, y[part], None if v is None else v[part], group.start, outputs, dac_max_code)
    return out.to(x.dtype), code, x.new_empty(0) if clip is None else read


def tile_linear_backward(
    grad: Tensor,
    code: Tensor,
    x: Tensor,
    read: Tensor,
    w: Tensor | None,
    clip: Tensor | None,
    gain: Tensor | None,
    rows: int,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    if not all_taken(grad, x, read, w, clip, gain):
        return reference.tile_linear_backward(grad, code, x, read, w, clip, gain, rows, wanted)
    grad, matrix = grad.contiguous(), read.to(x.dtype)
    grad_x = x.new_empty(x.shape if wanted[0] else (0,))
    grad_w = torch.empty(read.shape if wanted[1] else (0,), dtype=(read if w is None else w).dtype, device=x.device)
    tiles, whole = -(-read.shape[1] // rows), read.shape[1] // rows
    alike = not len(code) and gain is None  # every tile's outputs have the same gradient
    groups = [slice(0, 1)] if alike else tile_groups(tiles, whole, grad.numel(), CACHED)
    rows = read.shape[1] if alike else rows
    same = alike and grad.dtype == x.dtype
    g = grad.unsqueeze(0) if same else torch.empty(groups[0].stop, *grad.shape, dtype=x.dtype, device=x.device)
    for group in groups:
        part = g[: group.stop - group.start]
        if not same:
            clipped, factor = (None if t is None or not len(t) else t[group].contiguous() for t in (code, gain))
            unclipped(part, grad, clipped, factor)
        if wanted[0]:
            _multiply(part, by_tile(matrix, group, rows), by_tile(grad_x, group, rows))
        if wanted[1]:
            _multiply(part.transpose(1, 2), by_tile(x, group, rows), by_tile(grad_w, group, rows))
    if wanted[1] and w is not None and clip is not None:
        straight_through(grad_w, w, clip)
    return grad_x, grad_w
