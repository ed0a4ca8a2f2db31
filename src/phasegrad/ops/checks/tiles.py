"""Checks of draws, converters, weights and products."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from phasegrad.ops.checks.common import check_floating, check_one, check_seed, check_shapes


def check_random(seed: Tensor, offset: int, size: Sequence[int]) -> None:
    check_seed("normal/uniform", seed)


def check_dac(x: Tensor, range: Tensor, max_code: float, decay: float, keep: float) -> None:
    check_floating("dac", x=x, range=range)
    if range.numel() != 1 and (x.dim() == 0 or range.numel() != x.shape[0]):
        raise ValueError(
            f"dac: range has {range.numel()} elements, x has shape {list(x.shape)}; give one range, or one for "
            "each row of x"
        )


def check_adc(
    y: Sequence[Tensor], v: Sequence[Tensor], scale: Tensor, gain: Tensor | None, input_range: Tensor,
    bound: Tensor, seed: Tensor, offset: int, output_noise: float, read_noise: float, mode: int, max_code: float,
) -> None:  # fmt: skip
    if not y:
        raise ValueError("adc: y is empty; give the output of at least one tile")
    named = {f"y[{i}]": t for i, t in enumerate(y)} | {f"v[{i}]": t for i, t in enumerate(v)}
    gains = {} if gain is None else {"gain": gain}
    check_floating("adc", **named, scale=scale, **gains, input_range=input_range, bound=bound)
    check_seed("adc", seed, y[0])
    check_one("adc", "bound", bound)
    if y[0].dim() < 2:
        raise ValueError(f"adc: y[0] has shape {list(y[0].shape)}; it must be [rows, channels, ...]")
    if len(v) not in (0, len(y)) or any(t.shape != y[0].shape for t in (*y, *v)):
        raise ValueError(f"adc: tile outputs have shapes {[list(t.shape) for t in (*y, *v)]}; all must be equal")
    check_units("adc", len(y), y[0].shape, scale, gain, input_range)


def check_units(
    op: str, tiles: int, shape: Sequence[int], scale: Tensor, gain: Tensor | None, input_range: Tensor
) -> None:
    for name, columns in (("scale", scale), ("gain", gain)):
        if columns is not None and list(columns.shape) != [tiles, shape[1]]:
            raise ValueError(f"{op}: {name} has shape {list(columns.shape)}; it must be [{tiles}, {shape[1]}]")
    if input_range.numel() not in (1, shape[0]):
        raise ValueError(
            f"{op}: input_range has {input_range.numel()} elements; it must have one, or one for each of the "
            f"{shape[0]} rows"
        )


def check_weight_scale(
    w: Tensor, rows: int, columns: int, per_column: bool, clip_sigma: float, clip_per_channel: bool
) -> None:
    check_floating("weight_scale", w=w)
    if w.dim() != 2:
        raise ValueError(f"weight_scale: w has shape {list(w.shape)}; it must be [out, in]")
    if rows < 1 or columns < 1:
        raise ValueError(f"weight_scale: rows = {rows} and columns = {columns}; both must be at least 1")


def check_noisy_weights(
    w: Tensor, scale: Tensor, clip: Tensor, level: Tensor, seed: Tensor, offset: int, rows: int,
    noise: Sequence[float], drop_connect: float,
) -> None:  # fmt: skip
    check_floating("noisy_weights", w=w, scale=scale, clip=clip, level=level)
    pieces = len(noise) // 4
    if rows < 1 or not (len(noise) == 3 or (1 <= pieces <= 64 and len(noise) == 4 * pieces)):
        raise ValueError(
            f"noisy_weights: rows = {rows}, {len(noise)} noise coefficients; at least 1, and three, or four for each "
            "of 1 to 64 parabolas"
        )
    check_seed("noisy_weights", seed, w)
    check_one("noisy_weights", "level", level)
    if w.dim() != 2:
        raise ValueError(f"noisy_weights: w has shape {list(w.shape)}; it must be [out, in]")
    tiles = -(-w.shape[1] // rows)
    if list(scale.shape) != [tiles, w.shape[0]] or list(clip.shape) != [w.shape[0]]:
        raise ValueError(
            f"noisy_weights: scale has shape {list(scale.shape)} and clip {list(clip.shape)}; for w of shape "
            f"{list(w.shape)} they must be [{tiles}, {w.shape[0]}] and [{w.shape[0]}]"
        )


def check_dac_backward(grad: Tensor, x: Tensor, range: Tensor, decay: float, keep: float) -> None:
    check_dac(x, range, 1.0, decay, keep)
    check_floating("dac_backward", grad=grad, x=x)
    check_shapes("dac_backward", grad=grad, x=x)


def check_adc_backward(grad: Tensor, code: Tensor) -> None:
    check_floating("adc_backward", grad=grad)
    if code.dtype != torch.int8 or code.shape[1:] != grad.shape or code.device != grad.device:
        raise ValueError(
            f"adc_backward: code is {code.dtype} {list(code.shape)} on {code.device}, grad {list(grad.shape)} on "
            f"{grad.device}; code must be int8, one for each tile and output"
        )


def check_noisy_weights_backward(grad: Tensor, w: Tensor, clip: Tensor) -> None:
    check_floating("noisy_weights_backward", grad=grad, w=w, clip=clip)
    check_shapes("noisy_weights_backward", grad=grad, w=w)
    if w.dim() != 2 or list(clip.shape) != [w.shape[0]]:
        raise ValueError(
            f"noisy_weights_backward: w has shape {list(w.shape)} and clip {list(clip.shape)}; they must be "
            "[out, in] and [out]"
        )


def check_tile_linear(
    x: Tensor, w: Tensor, scale: Tensor, clip: Tensor | None, level: Tensor | None, gain: Tensor | None,
    input_range: Tensor, dac_max_code: float, decay: float, keep: float, bound: Tensor, seed: Tensor,
    weight_offset: int, offset: int, rows: int, noise: Sequence[float], drop_connect: float, output_noise: float,
    read_noise: float, mode: int, adc_max_code: float,
) -> None:  # fmt: skip
    gains = {} if gain is None else {"gain": gain}
    check_floating("tile_linear", x=x, w=w, scale=scale, **gains, input_range=input_range, bound=bound)
    check_seed("tile_linear", seed, x)
    check_one("tile_linear", "bound", bound)
    check_matrices("tile_linear", x, w, rows)
    if not (math.isfinite(dac_max_code) and dac_max_code >= 0.0):
        raise ValueError(
            f"tile_linear: dac_max_code = {dac_max_code}; it must be the largest code of the DAC, or 0 for inputs that "
            "are converted already"
        )
    check_units("tile_linear", -(-w.shape[1] // rows), (x.shape[0], w.shape[0]), scale, gain, input_range)
    if (clip is None) != (level is None):
        raise ValueError("tile_linear: clip and level must be given together, or neither")
    if clip is not None and level is not None:
        check_noisy_weights(w, scale, clip, level, seed, weight_offset, rows, noise, drop_connect)


def check_matrices(op: str, x: Tensor, w: Tensor, rows: int) -> None:
    mixed = w.dtype == torch.float32 and x.dtype in (torch.bfloat16, torch.float16)
    one_dtype = x.dtype == w.dtype or mixed
    if x.dim() != 2 or w.dim() != 2 or x.shape[1] != w.shape[1] or not one_dtype or w.shape[1] == 0:
        raise ValueError(
            f"{op}: x is {x.dtype} {list(x.shape)}, w {w.dtype} {list(w.shape)}; they must be [rows, in] and "
            "[out, in] of one dtype, or x of 16 bits and w of float32, with at least one input"
        )
    if rows < 1:
        raise ValueError(f"{op}: rows = {rows}; a tile has at least one")


def check_tile_linear_backward(
    grad: Tensor, code: Tensor, x: Tensor, read: Tensor, w: Tensor | None, clip: Tensor | None, gain: Tensor | None,
    rows: int, wanted: Sequence[bool],
) -> None:  # fmt: skip
    gains = {} if gain is None else {"gain": gain}
    check_floating("tile_linear_backward", grad=grad, x=x, read=read, **gains)
    check_matrices("tile_linear_backward", x, read, rows)
    tiles, shape = -(-read.shape[1] // rows), [x.shape[0], read.shape[0]]
    if list(grad.shape) != shape or len(wanted) != 2:
        raise ValueError(
            f"tile_linear_backward: grad has shape {list(grad.shape)} and wanted {len(wanted)} entries; they must be "
            f"{shape} and 2"
        )
    if code.dtype != torch.int8 or list(code.shape) not in ([0], [tiles, *shape]) or code.device != grad.device:
        raise ValueError(
            f"tile_linear_backward: code is {code.dtype} {list(code.shape)} on {code.device}; it must be int8 "
            f"{[tiles, *shape]}, or empty, on {grad.device}"
        )
    if gain is not None and list(gain.shape) != [tiles, shape[1]]:
        raise ValueError(f"tile_linear_backward: gain has shape {list(gain.shape)}; it must be {[tiles, shape[1]]}")
    if (clip is None) != (w is None):
        raise ValueError("tile_linear_backward: w and clip must be given together, or neither")
    if clip is not None and w is not None:
        check_noisy_weights_backward(read, w, clip)
