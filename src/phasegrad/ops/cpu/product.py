"""The product of a tile on the CPU, with its converters and the read of its weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from phasegrad.ops import reference, workspace
from phasegrad.ops.cpu.byte_product import ByteProduct, Conversion, Weights, pays_off
from phasegrad.ops.cpu.calls import all_floats, call
from phasegrad.ops.cpu.converters import convert, dac, perturbed, straight_through
from phasegrad.ops.row_tiles import by_tile, tile_groups

_CACHED = 1 << 18  # outputs that fit the second-level cache


def _multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    if len(out) == 1:
        torch.mm(a[0], b[0], out=out[0])
    else:
        torch.bmm(a, b, out=out)


def _multiply_into(out: Tensor, a: Tensor, b: Tensor) -> None:
    """For small products that are adjacent in one matrix: a separate batch computes them in one call."""
    if len(out) == 1:
        torch.mm(a[0], b[0], out=out[0])
    else:
        out.copy_(torch.bmm(a, b))


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
    kept: dict[int, Weights | None] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The op; ``kept`` are the bytes of an unperturbed matrix, see ``ByteProduct``."""
    settings = (output_noise, read_noise, mode, adc_max_code)
    if not all_floats(x, w, scale, input_range, bound, *(t for t in (clip, gain) if t is not None)):
        conversion = (input_range, dac_max_code, decay, keep, bound, seed)
        weights = (weight_offset, offset, rows, noise, drop_connect)
        return reference.tile_linear(x, w, scale, clip, level, gain, *conversion, *weights, *settings)
    read = w
    if clip is not None and level is not None:
        strength = float(level)
        room = workspace.for_read(w) if strength else w.new_empty(w.shape)  # evaluation does not keep the memory
        read = perturbed(room, w, scale, clip, strength, int(seed), weight_offset, rows, noise, drop_connect)
    columns = (scale.contiguous(), None if gain is None else gain.contiguous(), input_range.contiguous())
    conversion = Conversion(columns, (output_noise, read_noise, float(bound), mode, adc_max_code, int(seed)), offset)
    out = x.new_empty(x.shape[0], w.shape[0])
    code = x.new_empty((len(scale), *out.shape) if mode else (0,), dtype=torch.int8)
    fast = pays_off(x, w, rows)
    if fast and dac_max_code <= 127.0:
        levels = ByteProduct(x, read, rows, dac_max_code or 127.0, conversion, kept)
        if levels.write(out, code, converts=dac_max_code > 0):
            return out, code, x.new_empty(0) if clip is None else read
    if dac_max_code > 0:
        x = dac(x, input_range, dac_max_code, decay, keep)
    if len(x) == 1 and read_noise > 0:
        y, v = _row_products(x, read, rows)
        convert(out, code, y.unbind(), v.unbind(), columns, 0, conversion.settings, offset)
        return out, code, x.new_empty(0) if clip is None else read
    noisy = ByteProduct(x, read, rows, 127.0, conversion, kept) if fast and read_noise > 0 else None
    groups = tile_groups(len(scale), w.shape[1] // rows, out.numel(), _CACHED)
    y = workspace.scratch("outputs", torch.float32, groups[0].stop, *out.shape)
    v = workspace.scratch("variances", torch.float32, *y.shape) if read_noise > 0 and noisy is None else y[:0]
    for group in groups:
        count = group.stop - group.start
        inputs, weights = by_tile(x, group, rows), by_tile(read, group, rows).transpose(1, 2)
        _multiply(inputs, weights, y[:count])
        if noisy is not None:
            noisy.write_noise(out, code, y[:count], group)
            continue
        if read_noise > 0:
            _multiply(inputs.square(), weights.abs(), v[:count])
        convert(out, code, y[:count].unbind(), v[:count].unbind(), columns, group.start, conversion.settings, offset)
    return out, code, x.new_empty(0) if clip is None else read


def _row_products(x: Tensor, w: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """The product of one row of inputs ``[tiles, 1, out]``, and ``sum_j |w_j| x_j^2``, in one pass over the weights."""
    x, w = x.contiguous(), w.contiguous()
    y, v = x.new_empty(2, -(-w.shape[1] // rows), 1, len(w))
    call("row_products", y.data_ptr(), v.data_ptr(), x.data_ptr(), w.data_ptr(), None, 0, *w.shape, rows)
    return y, v


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
    if not all_floats(grad, x, read, *(t for t in (w, clip, gain) if t is not None)):
        return reference.tile_linear_backward(grad, code, x, read, w, clip, gain, rows, wanted)
    grad, code = grad.contiguous(), code.contiguous()
    grad_x = x.new_empty(x.shape if wanted[0] else (0,))
    grad_w = read.new_empty(read.shape if wanted[1] else (0,))
    tiles, whole = -(-read.shape[1] // rows), read.shape[1] // rows
    alike = not len(code) and gain is None  # every tile's outputs have the same gradient
    groups = [slice(0, 1)] if alike else tile_groups(tiles, whole, grad.numel(), _CACHED)
    rows = read.shape[1] if alike else rows
    g = grad.unsqueeze(0) if alike else grad.new_empty(groups[0].stop, *grad.shape)
    for group in groups:
        part = g[: group.stop - group.start]
        if not alike:
            _unclipped(part, grad, code[group], None if gain is None else gain[group])
        if wanted[0]:
            _multiply_into(by_tile(grad_x, group, rows), part, by_tile(read, group, rows))
        if wanted[1]:
            _multiply(part.transpose(1, 2), by_tile(x, group, rows), by_tile(grad_w, group, rows))
    if wanted[1] and w is not None and clip is not None:
        straight_through(grad_w, w.contiguous(), clip.contiguous())
    return grad_x, grad_w


def _unclipped(out: Tensor, grad: Tensor, code: Tensor, gain: Tensor | None) -> None:
    """The gradient of each tile's outputs."""
    for i, part in enumerate(out):
        if len(code):
            call("adc_backward", part.data_ptr(), grad.data_ptr(), code[i].data_ptr(), grad.numel())
        if gain is not None:
            torch.mul(part if len(code) else grad, gain[i], out=part)
