"""The ops: schema, checks, fake, gradient, autocast, vmap. Kernels are registered here and live elsewhere.

Every op is pure but the pulsed update, which changes devices in place and says so in its schema. Randomness is
``(seed, offset)``: ``seed`` an int64 tensor with one element, ``offset`` the stream. Under autocast every op computes
in float32. Under ``vmap`` an op runs once for each element of the batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from phasegrad.ops import cpu, pulses, reference
from phasegrad.ops.direct import KERNELS, dispatched
from phasegrad.ops.gradients import GRADIENTS
from phasegrad.ops.native import library

_SCHEMAS = {
    "normal": "(Tensor seed, int offset, SymInt[] size) -> Tensor",
    "uniform": "(Tensor seed, int offset, SymInt[] size) -> Tensor",
    "dac": "(Tensor x, Tensor range, float half, float decay, float keep) -> Tensor",
    "dac_backward": "(Tensor grad, Tensor x, Tensor range, float decay, float keep) -> (Tensor, Tensor)",
    "adc": "(Tensor[] y, Tensor[] v, Tensor scale, Tensor? gain, Tensor input_range, Tensor bound, Tensor seed, "
    "int offset, float output_noise, float read_noise, int mode, float half) -> (Tensor, Tensor)",
    "adc_backward": "(Tensor grad, Tensor code) -> Tensor",
    "weight_scale": "(Tensor w, int rows, int columns, bool per_column, float clip_sigma, bool clip_per_channel) "
    "-> (Tensor, Tensor)",
    "noisy_weights": "(Tensor w, Tensor scale, Tensor clip, Tensor level, Tensor seed, int offset, int rows, "
    "float[] noise, float drop) -> Tensor",
    "noisy_weights_backward": "(Tensor grad, Tensor w, Tensor clip) -> Tensor",
    "tile_linear": "(Tensor x, Tensor w, Tensor scale, Tensor? clip, Tensor? level, Tensor? gain, "
    "Tensor input_range, Tensor bound, Tensor seed, int weight_offset, int offset, int rows, float[] noise, "
    "float drop, float output_noise, float read_noise, int mode, float half) -> (Tensor, Tensor, Tensor)",
    "tile_linear_backward": "(Tensor grad, Tensor code, Tensor x, Tensor read, Tensor? w, Tensor? clip, "
    "Tensor? gain, int rows, bool[] wanted) -> (Tensor, Tensor)",
    "pcm_program": "(Tensor target, Tensor seed, int offset, float g_max, float[] spread, float[] nu_mean, "
    "float[] nu_sd) -> (Tensor, Tensor)",
    "pcm_read": "(Tensor conductance, Tensor nu, Tensor age, Tensor seed, int offset, float g_max, float t0, "
    "float t_read, float[] noise) -> Tensor",
    "pulse_trains": "(Tensor x, Tensor d, float lr, float granularity, int length, bool adaptive, bool managed, "
    "int kind, Tensor seed, int offset) -> (Tensor, Tensor)",
    "pulsed_update": "(Tensor(a!) conductance, Tensor(b!)? history, Tensor(c!)? pulsed_at, Tensor(d!)? weight, "
    "Tensor? others, float[] readout, Tensor parameters, Tensor x, Tensor d, float lr, float granularity, int length, "
    "bool adaptive, bool managed, int kind, float now, int[] planes, int family, Tensor coefficients, Tensor seed, "
    "int offset) -> ()",
    "read_out": "(Tensor conductance, Tensor? others, float[] readout, float[] sd, Tensor seed, int offset) -> Tensor",
    "leak": "(Tensor(a!) conductance, float level, float lost, Tensor(b!)? weight, Tensor? others, float[] readout) "
    "-> ()",
    "pulse_counts": "(Tensor(a!) conductance, Tensor(b!)? history, Tensor(c!)? pulsed_at, Tensor(d!)? weight, "
    "Tensor? others, float[] readout, Tensor parameters, Tensor counts, float now, int[] planes, int family, "
    "Tensor coefficients, Tensor seed, int offset) -> ()",
    "wired_conductance": "(Tensor conductance, float word_line, float bit_line, float driver, float sense, bool both) "
    "-> Tensor",
    "wired_conductance_backward": "(Tensor grad, Tensor conductance, float word_line, float bit_line, float driver, "
    "float sense, bool both) -> Tensor",
}


# --- checks, the same in every kernel and in the fake ---------------------------------------------------------


def _check_floating(op: str, **tensors: Tensor) -> None:
    first = next(iter(tensors.values()))
    for name, t in tensors.items():
        if not t.dtype.is_floating_point:
            raise TypeError(f"{op}: {name} has dtype {t.dtype}; it must be a floating-point tensor")
        if t.device != first.device:
            raise ValueError(f"{op}: {name} is on {t.device}, the first argument on {first.device}; move one")


def _check_seed(op: str, seed: Tensor, like: Tensor | None = None) -> None:
    if seed.dtype != torch.int64 or seed.numel() != 1:
        raise TypeError(
            f"{op}: seed has dtype {seed.dtype} and shape {list(seed.shape)}; it must be int64 with one element, "
            "as torch.randint(-2**63, 2**63 - 1, (1,)) gives"
        )
    if like is not None and seed.device != like.device:
        raise ValueError(f"{op}: seed is on {seed.device}, the first argument on {like.device}; move one")


def _check_one(op: str, name: str, tensor: Tensor) -> None:
    if tensor.numel() != 1:
        raise ValueError(f"{op}: {name} has shape {list(tensor.shape)}; it must have one element")


def _check_law(op: str, name: str, law: Sequence[float]) -> None:
    table = len(law) > 1 and law[0] == 1
    size = 2 + 2 * int(law[1]) if table else 18
    if len(law) != size or law[0] not in (0, 1) or (table and law[1] < 1):
        raise ValueError(f"{op}: {name} has {len(law)} numbers; a law of this kind is encoded in {size}")


def _check_random(seed: Tensor, offset: int, size: Sequence[int]) -> None:
    _check_seed("normal/uniform", seed)


def _check_dac(x: Tensor, range: Tensor, half: float, decay: float, keep: float) -> None:
    _check_floating("dac", x=x, range=range)
    if range.numel() != 1 and (x.dim() == 0 or range.numel() != x.shape[0]):
        raise ValueError(
            f"dac: range has {range.numel()} elements, x has shape {list(x.shape)}; give one range, or one for "
            "each row of x"
        )


def _check_adc(
    y: Sequence[Tensor], v: Sequence[Tensor], scale: Tensor, gain: Tensor | None, input_range: Tensor,
    bound: Tensor, seed: Tensor, offset: int, output_noise: float, read_noise: float, mode: int, half: float,
) -> None:  # fmt: skip
    if not y:
        raise ValueError("adc: y is empty; give the output of at least one tile")
    named = {f"y[{i}]": t for i, t in enumerate(y)} | {f"v[{i}]": t for i, t in enumerate(v)}
    gains = {} if gain is None else {"gain": gain}
    _check_floating("adc", **named, scale=scale, **gains, input_range=input_range, bound=bound)
    _check_seed("adc", seed, y[0])
    _check_one("adc", "bound", bound)
    if y[0].dim() < 2:
        raise ValueError(f"adc: y[0] has shape {list(y[0].shape)}; it must be [rows, channels, ...]")
    if len(v) not in (0, len(y)) or any(t.shape != y[0].shape for t in (*y, *v)):
        raise ValueError(f"adc: tile outputs have shapes {[list(t.shape) for t in (*y, *v)]}; all must be equal")
    _check_units("adc", len(y), y[0].shape, scale, gain, input_range)


def _check_units(
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


def _check_weight_scale(
    w: Tensor, rows: int, columns: int, per_column: bool, clip_sigma: float, clip_per_channel: bool
) -> None:
    _check_floating("weight_scale", w=w)
    if w.dim() != 2:
        raise ValueError(f"weight_scale: w has shape {list(w.shape)}; it must be [out, in]")
    if rows < 1 or columns < 1:
        raise ValueError(f"weight_scale: rows = {rows} and columns = {columns}; both must be at least 1")


def _check_noisy_weights(
    w: Tensor, scale: Tensor, clip: Tensor, level: Tensor, seed: Tensor, offset: int, rows: int,
    noise: Sequence[float], drop: float,
) -> None:  # fmt: skip
    _check_floating("noisy_weights", w=w, scale=scale, clip=clip, level=level)
    if rows < 1 or len(noise) != 3:
        raise ValueError(f"noisy_weights: rows = {rows}, {len(noise)} noise coefficients; at least 1, and three")
    _check_seed("noisy_weights", seed, w)
    _check_one("noisy_weights", "level", level)
    if w.dim() != 2:
        raise ValueError(f"noisy_weights: w has shape {list(w.shape)}; it must be [out, in]")
    tiles = -(-w.shape[1] // rows)
    if list(scale.shape) != [tiles, w.shape[0]] or list(clip.shape) != [w.shape[0]]:
        raise ValueError(
            f"noisy_weights: scale has shape {list(scale.shape)} and clip {list(clip.shape)}; for w of shape "
            f"{list(w.shape)} they must be [{tiles}, {w.shape[0]}] and [{w.shape[0]}]"
        )


def _check_program(
    target: Tensor, seed: Tensor, offset: int, g_max: float, spread: Sequence[float], nu_mean: Sequence[float],
    nu_sd: Sequence[float],
) -> None:  # fmt: skip
    _check_floating("pcm_program", target=target)
    _check_seed("pcm_program", seed, target)
    if not spread:
        raise ValueError("pcm_program: spread is empty; give at least the coefficient of g^0")
    _check_law("pcm_program", "nu_mean", nu_mean)
    _check_law("pcm_program", "nu_sd", nu_sd)


def _check_read(
    conductance: Tensor, nu: Tensor, age: Tensor, seed: Tensor, offset: int, g_max: float, t0: float, t_read: float,
    noise: Sequence[float],
) -> None:  # fmt: skip
    _check_floating("pcm_read", conductance=conductance, nu=nu, age=age)
    _check_seed("pcm_read", seed, conductance)
    if nu.shape != conductance.shape:
        raise ValueError(
            f"pcm_read: nu has shape {list(nu.shape)}, conductance {list(conductance.shape)}; they must be equal"
        )
    if age.numel() != 1 and not _broadcasts(age.shape, conductance.shape):
        raise ValueError(
            f"pcm_read: age has shape {list(age.shape)}, conductance {list(conductance.shape)}; give one age, or "
            "ages that broadcast to the devices"
        )
    if noise:
        _check_law("pcm_read", "noise", noise)


def _check_shapes(op: str, **tensors: Tensor) -> None:
    first = next(iter(tensors.values()))
    if any(t.shape != first.shape for t in tensors.values()):
        shapes = {name: list(t.shape) for name, t in tensors.items()}
        raise ValueError(f"{op}: shapes are {shapes}; they must be equal")


def _check_dac_backward(grad: Tensor, x: Tensor, range: Tensor, decay: float, keep: float) -> None:
    _check_dac(x, range, 1.0, decay, keep)
    _check_floating("dac_backward", grad=grad, x=x)
    _check_shapes("dac_backward", grad=grad, x=x)


def _check_adc_backward(grad: Tensor, code: Tensor) -> None:
    _check_floating("adc_backward", grad=grad)
    if code.dtype != torch.int8 or code.shape[1:] != grad.shape or code.device != grad.device:
        raise ValueError(
            f"adc_backward: code is {code.dtype} {list(code.shape)} on {code.device}, grad {list(grad.shape)} on "
            f"{grad.device}; code must be int8, one for each tile and output"
        )


def _check_noisy_weights_backward(grad: Tensor, w: Tensor, clip: Tensor) -> None:
    _check_floating("noisy_weights_backward", grad=grad, w=w, clip=clip)
    _check_shapes("noisy_weights_backward", grad=grad, w=w)
    if w.dim() != 2 or list(clip.shape) != [w.shape[0]]:
        raise ValueError(
            f"noisy_weights_backward: w has shape {list(w.shape)} and clip {list(clip.shape)}; they must be "
            "[out, in] and [out]"
        )


def _check_tile_linear(
    x: Tensor, w: Tensor, scale: Tensor, clip: Tensor | None, level: Tensor | None, gain: Tensor | None,
    input_range: Tensor, bound: Tensor, seed: Tensor, weight_offset: int, offset: int, rows: int,
    noise: Sequence[float], drop: float, output_noise: float, read_noise: float, mode: int, half: float,
) -> None:  # fmt: skip
    gains = {} if gain is None else {"gain": gain}
    _check_floating("tile_linear", x=x, w=w, scale=scale, **gains, input_range=input_range, bound=bound)
    _check_seed("tile_linear", seed, x)
    _check_one("tile_linear", "bound", bound)
    _check_matrices("tile_linear", x, w, rows)
    _check_units("tile_linear", -(-w.shape[1] // rows), (x.shape[0], w.shape[0]), scale, gain, input_range)
    if (clip is None) != (level is None):
        raise ValueError("tile_linear: clip and level must be given together, or neither")
    if clip is not None and level is not None:
        _check_noisy_weights(w, scale, clip, level, seed, weight_offset, rows, noise, drop)


def _check_matrices(op: str, x: Tensor, w: Tensor, rows: int) -> None:
    if x.dim() != 2 or w.dim() != 2 or x.shape[1] != w.shape[1] or x.dtype != w.dtype or w.shape[1] == 0:
        raise ValueError(
            f"{op}: x is {x.dtype} {list(x.shape)}, w {w.dtype} {list(w.shape)}; they must be [rows, in] and "
            "[out, in] of one dtype, with at least one input"
        )
    if rows < 1:
        raise ValueError(f"{op}: rows = {rows}; a tile has at least one")


def _check_tile_linear_backward(
    grad: Tensor, code: Tensor, x: Tensor, read: Tensor, w: Tensor | None, clip: Tensor | None, gain: Tensor | None,
    rows: int, wanted: Sequence[bool],
) -> None:  # fmt: skip
    gains = {} if gain is None else {"gain": gain}
    _check_floating("tile_linear_backward", grad=grad, x=x, read=read, **gains)
    _check_matrices("tile_linear_backward", x, read, rows)
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
        _check_noisy_weights_backward(read, w, clip)


def _check_trains(
    x: Tensor, d: Tensor, lr: float, granularity: float, length: int, adaptive: bool, managed: bool, kind: int,
    seed: Tensor, offset: int,
) -> None:  # fmt: skip
    op = "pulsed_update"
    _check_floating(op, x=x, d=d)
    _check_seed(op, seed, x)
    if x.dim() != 2 or d.dim() != 2 or len(x) != len(d) or x.shape[1] == 0 or d.shape[1] == 0:
        raise ValueError(f"{op}: x is {list(x.shape)} and d {list(d.shape)}; they must be [batch, in] and [batch, out]")
    if not (math.isfinite(lr) and lr >= 0.0):
        raise ValueError(f"{op}: the learning rate is {lr}; it must be finite and not negative")
    if not (math.isfinite(granularity) and granularity > 0.0):
        raise ValueError(f"{op}: granularity = {granularity}; the change of one pulse must be finite and above 0")
    if not 1 <= length <= pulses.LONGEST or kind not in (pulses.STOCHASTIC, pulses.DETERMINISTIC, pulses.MEAN_COUNT):
        raise ValueError(f"{op}: trains of {length} slots and kind {kind}; 1 to {pulses.LONGEST}, and 0, 1 or 2")


def _check_wired(conductance: Tensor, *lines: float) -> None:
    op = "wired_conductance"
    _check_floating(op, conductance=conductance)
    if conductance.dim() < 2:
        raise ValueError(f"{op}: conductance has shape {list(conductance.shape)}; it must be [..., rows, columns]")
    for name, value in zip(("word_line", "bit_line", "driver", "sense"), lines, strict=False):
        if not (math.isfinite(value) and value >= 0.0):
            raise ValueError(f"{op}: {name} = {value} ohm; a resistance must be finite and not negative")


def _check_wired_backward(grad: Tensor, conductance: Tensor, *lines: float) -> None:
    _check_wired(conductance, *lines)
    _check_floating("wired_conductance_backward", grad=grad, conductance=conductance)
    _check_shapes("wired_conductance_backward", grad=grad, conductance=conductance)


# Numbers of each family, of the noise and its own; the tables' depend on their size.
_COEFFICIENTS = {pulses.LINEAR: 4, pulses.EXPONENTIAL: 7, pulses.POWER: 3, pulses.HISTORY: 8}


def _check_pulsed_update(
    conductance: Tensor, history: Tensor | None, pulsed_at: Tensor | None, weight: Tensor | None,
    others: Tensor | None, readout: Sequence[float], parameters: Tensor, x: Tensor, d: Tensor, lr: float,
    granularity: float, length: int, adaptive: bool, managed: bool, kind: int, now: float, planes: Sequence[int],
    family: int, coefficients: Tensor, seed: Tensor, offset: int,
) -> None:  # fmt: skip
    _check_trains(x, d, lr, granularity, length, adaptive, managed, kind, seed, offset)
    lines = (d.shape[1], x.shape[1])
    devices = (conductance, history, pulsed_at, parameters, planes, family, coefficients)
    _check_pulsed("pulsed_update", lines, x.device, *devices)
    _check_readout("pulsed_update", conductance, weight, others, readout)


def _check_pulse_counts(
    conductance: Tensor, history: Tensor | None, pulsed_at: Tensor | None, weight: Tensor | None,
    others: Tensor | None, readout: Sequence[float], parameters: Tensor, counts: Tensor, now: float,
    planes: Sequence[int], family: int, coefficients: Tensor, seed: Tensor, offset: int,
) -> None:  # fmt: skip
    if counts.dtype != torch.int32 or counts.dim() != 2:
        raise TypeError(f"pulse_counts: counts are {counts.dtype} {list(counts.shape)}; they must be int32 [out, in]")
    _check_seed("pulse_counts", seed, counts)
    devices = (conductance, history, pulsed_at, parameters, planes, family, coefficients)
    _check_pulsed("pulse_counts", tuple(counts.shape), counts.device, *devices)
    _check_readout("pulse_counts", conductance, weight, others, readout)


def _check_readout(
    op: str, conductance: Tensor, weight: Tensor | None, others: Tensor | None, readout: Sequence[float]
) -> None:
    if weight is None:
        return
    shape = conductance.shape[1:]
    for name, t, has in (("weight", weight, weight.shape), ("others", others, others is not None and others.shape[1:])):
        if t is None:
            continue
        if t.dtype != torch.float32 or t.device != conductance.device or has != shape or not t.is_contiguous():
            raise ValueError(
                f"{op}: {name} is {t.dtype} {list(t.shape)} on {t.device}; it must be contiguous float32 "
                f"{list(shape) if t is weight else ['planes', *shape]} on {conductance.device}"
            )
    planes = len(conductance) + (0 if others is None else len(others))
    if len(readout) != 1 + planes:
        raise ValueError(f"{op}: readout has {len(readout)} numbers; an offset and one for each of {planes} planes")


def _check_read_out(
    conductance: Tensor, others: Tensor | None, readout: Sequence[float], sd: Sequence[float], seed: Tensor, offset: int
) -> None:
    planes = len(conductance) + (0 if others is None else len(others))
    for name, t in (("conductance", conductance), ("others", conductance if others is None else others)):
        if t.dtype != torch.float32 or t.dim() != 3 or t.shape[1:] != conductance.shape[1:]:
            raise ValueError(f"read_out: {name} is {t.dtype} {list(t.shape)}; it must be float32 [planes, out, in]")
    if len(readout) != 1 + planes or len(sd) > 3:
        raise ValueError(
            f"read_out: readout has {len(readout)} numbers and sd {len(sd)}; an offset and one for each of {planes} "
            "planes, and three at most"
        )
    _check_seed("read_out", seed, conductance)


def _check_leak(
    conductance: Tensor, level: float, lost: float, weight: Tensor | None, others: Tensor | None,
    readout: Sequence[float],
) -> None:  # fmt: skip
    if conductance.dtype != torch.float32 or conductance.dim() != 3 or not conductance.is_contiguous():
        raise ValueError(
            f"leak: conductance is {conductance.dtype} {list(conductance.shape)}; it must be contiguous float32 "
            "[planes, out, in]"
        )
    if not (math.isfinite(level) and 0.0 <= lost <= 1.0):
        raise ValueError(f"leak: level = {level} and lost = {lost}; the level must be finite, and lost in [0, 1]")
    _check_readout("leak", conductance, weight, others, readout)


def _check_pulsed(
    op: str, lines: Sequence[int], device: torch.device, conductance: Tensor, history: Tensor | None,
    pulsed_at: Tensor | None, parameters: Tensor, planes: Sequence[int], family: int, coefficients: Tensor,
) -> None:  # fmt: skip
    shape = list(conductance.shape)
    states = {"conductance": conductance, "parameters": parameters, "coefficients": coefficients}
    if history is not None:
        states["history"] = history
    for name, t in states.items():
        if t.dtype != torch.float32 or t.device != device:
            raise TypeError(f"{op}: {name} is {t.dtype} on {t.device}; it must be float32 on {device}")
    if conductance.dim() != 3 or shape[1:] != list(lines) or not conductance.is_contiguous():
        raise ValueError(f"{op}: conductance has shape {shape}; it must be contiguous [planes, {lines[0]}, {lines[1]}]")
    for name, t in (("history", history), ("pulsed_at", pulsed_at)):
        if t is not None and (list(t.shape) != shape or not t.is_contiguous()):
            raise ValueError(f"{op}: {name} has shape {list(t.shape)}; it must be contiguous {shape}")
    if pulsed_at is not None and (pulsed_at.dtype != torch.float64 or pulsed_at.device != device):
        raise TypeError(f"{op}: pulsed_at is {pulsed_at.dtype} on {pulsed_at.device}; float64 on {device} is wanted")
    if list(parameters.shape) not in ([4, *shape], [4, 1, 1, 1]):
        raise ValueError(
            f"{op}: parameters have shape {list(parameters.shape)}; they must be {[4, *shape]} or [4, 1, 1, 1]"
        )
    if len(planes) != 2 or not all(0 <= p < shape[0] for p in planes):
        raise ValueError(f"{op}: planes = {list(planes)}; two of 0 to {shape[0] - 1}")
    if (family == pulses.HISTORY) != (history is not None):
        raise ValueError(f"{op}: family {family} and history {'given' if history is not None else 'missing'}")
    if family not in _COEFFICIENTS and family not in (pulses.PIECEWISE, pulses.TABLE):
        raise ValueError(f"{op}: there is no family {family}")
    if family == pulses.HISTORY and planes[0] == planes[1]:
        raise ValueError(f"{op}: a device with history grows only; it needs a partner that counts down")
    if family in _COEFFICIENTS and coefficients.numel() != _COEFFICIENTS[family]:
        raise ValueError(f"{op}: {coefficients.numel()} coefficients; family {family} has {_COEFFICIENTS[family]}")


def _broadcasts(small: Sequence[int], large: Sequence[int]) -> bool:
    """Whether a tensor of one shape expands to the other."""
    pairs = zip(reversed(small), reversed(large), strict=False)
    return len(small) <= len(large) and all(a in (1, b) for a, b in pairs)


_CHECKS: dict[str, Callable[..., None]] = {
    "normal": _check_random,
    "uniform": _check_random,
    "dac": _check_dac,
    "adc": _check_adc,
    "weight_scale": _check_weight_scale,
    "noisy_weights": _check_noisy_weights,
    "dac_backward": _check_dac_backward,
    "adc_backward": _check_adc_backward,
    "noisy_weights_backward": _check_noisy_weights_backward,
    "tile_linear": _check_tile_linear,
    "tile_linear_backward": _check_tile_linear_backward,
    "pcm_program": _check_program,
    "pcm_read": _check_read,
    "pulse_trains": _check_trains,
    "pulsed_update": _check_pulsed_update,
    "pulse_counts": _check_pulse_counts,
    "read_out": _check_read_out,
    "leak": _check_leak,
    "wired_conductance": _check_wired,
    "wired_conductance_backward": _check_wired_backward,
}


# --- fakes: the shapes and dtypes of the results --------------------------------------------------------------


def _fake_random(seed: Tensor, offset: int, size: Sequence[int]) -> Tensor:
    return torch.empty(tuple(size), dtype=torch.float32, device=seed.device)


def _fake_adc(y: Sequence[Tensor], *rest: Any) -> tuple[Tensor, Tensor]:
    mode = rest[9]
    shape = (len(y), *y[0].shape) if mode != reference.NO_CONVERTER else (0,)
    return _like_first(y[0]), torch.empty(shape, dtype=torch.int8, device=y[0].device)


def _fake_tile_linear(
    x: Tensor, w: Tensor, scale: Tensor, clip: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    mode = rest[-2]
    shape = (len(scale), x.shape[0], w.shape[0]) if mode != reference.NO_CONVERTER else (0,)
    code = torch.empty(shape, dtype=torch.int8, device=x.device)
    return x.new_empty(x.shape[0], w.shape[0]), code, w.new_empty((0,) if clip is None else w.shape)


def _fake_tile_linear_backward(
    grad: Tensor, code: Tensor, x: Tensor, read: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    wanted = rest[-1]
    return x.new_empty(x.shape if wanted[0] else (0,)), read.new_empty(read.shape if wanted[1] else (0,))


def _like_first(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _fake_weight_scale(w: Tensor, rows: int, *_: Any) -> tuple[Tensor, Tensor]:
    return w.new_empty(-(-w.shape[1] // rows), w.shape[0]), w.new_empty(w.shape[0])


_FAKES: dict[str, Callable[..., Any]] = {
    "normal": _fake_random,
    "uniform": _fake_random,
    "dac": _like_first,
    "dac_backward": lambda grad, x, range, *_: (_like_first(x), torch.empty_like(range)),
    "adc": _fake_adc,
    "adc_backward": lambda grad, code: grad.new_empty(code.shape),
    "weight_scale": _fake_weight_scale,
    "noisy_weights": _like_first,
    "noisy_weights_backward": lambda grad, w, clip: _like_first(w),
    "tile_linear": _fake_tile_linear,
    "tile_linear_backward": _fake_tile_linear_backward,
    "pcm_program": lambda target, *_: (_like_first(target), _like_first(target)),
    "pcm_read": _like_first,
    "pulse_trains": lambda x, d, *_: (x.new_empty(x.shape, dtype=torch.int32), d.new_empty(d.shape, dtype=torch.int32)),
    "pulsed_update": lambda *_: None,
    "pulse_counts": lambda *_: None,
    "leak": lambda *_: None,
    "read_out": lambda conductance, *_: conductance.new_empty(conductance.shape[1:]),
    "wired_conductance": _like_first,
    "wired_conductance_backward": lambda grad, conductance, *_: _like_first(conductance),
}


# --- vmap -----------------------------------------------------------------------------------------------------


def _pick(argument: Any, dim: Any, i: int) -> Any:
    if isinstance(argument, Tensor):
        return argument if dim is None else argument.select(dim, i)
    if isinstance(dim, (list, tuple)):
        return [_pick(a, d, i) for a, d in zip(argument, dim, strict=True)]
    return argument


def _vmap_rule(op: Callable[..., Any]) -> Callable[..., Any]:
    def rule(info: Any, in_dims: Any, *arguments: Any) -> Any:
        results = [
            op(*itertools.starmap(lambda a, d: _pick(a, d, i), zip(arguments, in_dims, strict=True)))  # noqa: B023
            for i in range(info.batch_size)
        ]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        parts = tuple(torch.stack(part) for part in zip(*results, strict=True))
        return parts, tuple(0 for _ in parts)

    return rule


# --- registration ---------------------------------------------------------------------------------------------


def _checked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    check = _CHECKS.get(name)
    if check is None:
        return function

    def op(*arguments: Any) -> Any:
        check(*arguments)
        return function(*arguments)

    return op


def _register(name: str, schema: str) -> None:
    qualified = f"phasegrad::{name}"
    torch.library.define(qualified, schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(qualified, "CompositeExplicitAutograd")(_checked(name, getattr(reference, name)))
    if library is not None and name in cpu.KERNELS:
        KERNELS[name] = _checked(name, cpu.KERNELS[name])
        torch.library.impl(qualified, "CPU")(KERNELS[name])
    torch.library.register_fake(qualified)(_checked(name, _FAKES[name]))
    if name in GRADIENTS:
        torch.library.impl(qualified, "Autograd")(dispatched(name))
    if not schema.endswith("()"):  # what returns nothing changes its arguments, and cannot run element by element
        torch.library.register_vmap(qualified, _vmap_rule(getattr(torch.ops.phasegrad, name)))
    if "_backward" not in name:
        for device in ("cpu", "cuda"):
            torch.library.register_autocast(qualified, device, torch.float32)


for _name, _schema in _SCHEMAS.items():
    _register(_name, _schema)
