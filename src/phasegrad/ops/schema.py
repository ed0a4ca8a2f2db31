"""The ops: schema, checks, fake, gradient, autocast, vmap.

Kernels are registered here and are defined in other modules. Every op is pure, except those that pulse or relax devices
in place, as their schemas say. Randomness is ``(seed, offset)``: ``seed`` an int64 tensor with one element, ``offset``
the stream. Under autocast every op computes in float32, except that ``tile_linear`` on CUDA multiplies in autocast's
dtype. Under ``vmap`` an op runs once for each element of the batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from phasegrad.ops import cpu, cuda, reference
from phasegrad.ops.arguments import flat
from phasegrad.ops.direct import CUDA_KERNELS, KERNELS, checked, dispatched
from phasegrad.ops.gradients import GRADIENTS
from phasegrad.ops.native import library

_SCHEMAS = {
    "normal": "(Tensor seed, int offset, SymInt[] size) -> Tensor",
    "uniform": "(Tensor seed, int offset, SymInt[] size) -> Tensor",
    "dac": "(Tensor x, Tensor range, float max_code, float decay, float keep) -> Tensor",
    "dac_backward": "(Tensor grad, Tensor x, Tensor range, float decay, float keep) -> (Tensor, Tensor)",
    "adc": "(Tensor[] y, Tensor[] v, Tensor scale, Tensor? gain, Tensor input_range, Tensor bound, Tensor seed, "
    "int offset, float output_noise, float read_noise, int mode, float max_code) -> (Tensor, Tensor)",
    "adc_backward": "(Tensor grad, Tensor code) -> Tensor",
    "weight_scale": "(Tensor w, int rows, int columns, bool per_column, float clip_sigma, bool clip_per_channel) "
    "-> (Tensor, Tensor)",
    "noisy_weights": "(Tensor w, Tensor scale, Tensor clip, Tensor level, Tensor seed, int offset, int rows, "
    "float[] noise, float drop_connect) -> Tensor",
    "noisy_weights_backward": "(Tensor grad, Tensor w, Tensor clip) -> Tensor",
    "tile_linear": "(Tensor x, Tensor w, Tensor scale, Tensor? clip, Tensor? level, Tensor? gain, "
    "Tensor input_range, float dac_max_code, float decay, float keep, Tensor bound, Tensor seed, int weight_offset, "
    "int offset, int rows, float[] noise, float drop_connect, float output_noise, float read_noise, int mode, "
    "float adc_max_code) -> (Tensor, Tensor, Tensor)",
    "tile_linear_backward": "(Tensor grad, Tensor code, Tensor x, Tensor read, Tensor? w, Tensor? clip, "
    "Tensor? gain, int rows, bool[] wanted) -> (Tensor, Tensor)",
    "pcm_program": "(Tensor target, Tensor seed, int offset, float g_max, float[] programming_sd, float[] nu_mean, "
    "float[] nu_sd) -> (Tensor, Tensor)",
    "pcm_read": "(Tensor conductance, Tensor nu, Tensor age, Tensor seed, int offset, float g_max, float t0, "
    "float t_read, float[] noise) -> Tensor",
    "pcm_cells": "(Tensor conductance, Tensor nu, Tensor age, Tensor seed, int offset, float g_max, float t0, "
    "float t_read, float[] noise, float[] factors, Tensor? scale, int rows) -> Tensor",
    "noisy_cells": "(Tensor mean, Tensor? sd, Tensor seed, int offset, float[] factors, Tensor? scale, int rows) "
    "-> Tensor",
    "pcm_moments": "(Tensor conductance, Tensor nu, Tensor age, float g_max, float t0, float t_read, float[] noise) "
    "-> (Tensor, Tensor)",
    "rectified_cells": "(Tensor mean, Tensor sd, float[] factors, Tensor scale, int rows) -> (Tensor, Tensor)",
    "row_products": "(Tensor x, Tensor mean, Tensor variance, int rows) -> (Tensor, Tensor)",
    "pulse_trains": "(Tensor x, Tensor d, float lr, float dw_min, int length, bool bl_management, "
    "bool update_management, int kind, Tensor seed, int offset) -> (Tensor, Tensor)",
    "pulsed_update": "(Tensor(a!) conductance, Tensor(b!)? history, Tensor(c!)? pulsed_at, Tensor(d!)? weight, "
    "Tensor? other_planes, float[] factors, Tensor parameters, Tensor x, Tensor d, float lr, float dw_min, int length, "
    "bool bl_management, bool update_management, int kind, float now, int[] planes, int family, Tensor coefficients, "
    "Tensor seed, int offset) -> ()",
    "weighted_sum": "(Tensor conductance, Tensor? other_planes, float[] factors, float[] sd, Tensor seed, int offset) "
    "-> Tensor",
    "leak": "(Tensor(a!) conductance, float level, float lost, Tensor(b!)? weight, Tensor? other_planes, "
    "float[] factors) -> ()",
    "pulse_counts": "(Tensor(a!) conductance, Tensor(b!)? history, Tensor(c!)? pulsed_at, Tensor(d!)? weight, "
    "Tensor? other_planes, float[] factors, Tensor parameters, Tensor counts, float now, int[] planes, int family, "
    "Tensor coefficients, Tensor seed, int offset) -> ()",
    "wired_conductance": "(Tensor conductance, float word_line, float bit_line, float driver, float sense, bool both) "
    "-> Tensor",
    "wired_conductance_backward": "(Tensor grad, Tensor conductance, float word_line, float bit_line, float driver, "
    "float sense, bool both) -> Tensor",
}


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
    return x.new_empty(x.shape[0], w.shape[0]), code, x.new_empty((0,) if clip is None else w.shape)


def _fake_tile_linear_backward(
    grad: Tensor, code: Tensor, x: Tensor, read: Tensor, w: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor]:
    wanted, weight = rest[-1], read if w is None else w
    return x.new_empty(x.shape if wanted[0] else (0,)), weight.new_empty(read.shape if wanted[1] else (0,))


def _like_first(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _fake_weight_scale(w: Tensor, rows: int, *_: Any) -> tuple[Tensor, Tensor]:
    return w.new_empty(-(-w.shape[1] // rows), w.shape[0]), w.new_empty(w.shape[0])


_FAKES: dict[str, Callable[..., Any]] = {
    "normal": _fake_random,
    "uniform": _fake_random,
    "dac": lambda x, *_: torch.empty_like(x, memory_format=reference.memory_order(x)),
    "dac_backward": lambda grad, x, range, *_: (
        torch.empty_like(x, memory_format=reference.memory_order(x)),
        torch.empty_like(range),
    ),
    "adc": _fake_adc,
    "adc_backward": lambda grad, code: grad.new_empty(code.shape),
    "weight_scale": _fake_weight_scale,
    "noisy_weights": _like_first,
    "noisy_weights_backward": lambda grad, w, clip: _like_first(w),
    "tile_linear": _fake_tile_linear,
    "tile_linear_backward": _fake_tile_linear_backward,
    "pcm_program": lambda target, *_: (_like_first(target), _like_first(target)),
    "pcm_read": _like_first,
    "pcm_cells": lambda conductance, *_: conductance.new_empty(conductance.shape[1:]),
    "noisy_cells": lambda mean, *_: mean.new_empty(mean.shape[1:]),
    "rectified_cells": lambda mean, *_: (mean.new_empty(mean.shape[1:]), mean.new_empty(mean.shape[1:])),
    "row_products": lambda x, mean, variance, rows: (
        x.new_empty(-(-len(x) // rows), len(mean)),
        x.new_empty(-(-len(x) // rows), len(mean)),
    ),
    "pcm_moments": lambda conductance, *_: (_like_first(conductance), _like_first(conductance)),
    "pulse_trains": lambda x, d, *_: (x.new_empty(x.shape, dtype=torch.int32), d.new_empty(d.shape, dtype=torch.int32)),
    "pulsed_update": lambda *_: None,
    "pulse_counts": lambda *_: None,
    "leak": lambda *_: None,
    "weighted_sum": lambda conductance, *_: conductance.new_empty(conductance.shape[1:]),
    "wired_conductance": _like_first,
    "wired_conductance_backward": lambda grad, conductance, *_: _like_first(conductance),
}


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


_CPU_KERNELS = cuda.interpreted() if library is None else cpu.KERNELS


def _register(name: str, schema: str) -> None:
    qualified = f"phasegrad::{name}"
    torch.library.define(qualified, schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(qualified, "CompositeExplicitAutograd")(flat(name, checked(name, getattr(reference, name))))
    if name in _CPU_KERNELS:
        KERNELS[name] = checked(name, _CPU_KERNELS[name])
        torch.library.impl(qualified, "CPU")(flat(name, KERNELS[name]))
    CUDA_KERNELS[name] = checked(name, cuda.chosen(name, getattr(reference, name)))
    torch.library.impl(qualified, "CUDA")(flat(name, CUDA_KERNELS[name]))
    torch.library.register_fake(qualified)(flat(name, checked(name, _FAKES[name])))
    if name in GRADIENTS:
        torch.library.impl(qualified, "Autograd")(dispatched(name))
    if not schema.endswith("()"):  # an op that returns nothing changes its arguments, and cannot run element by element
        torch.library.register_vmap(qualified, _vmap_rule(getattr(torch.ops.phasegrad, name)))
    if "_backward" not in name:
        for device in ("cpu", "cuda") if name != "tile_linear" else ("cpu",):  # on CUDA, see direct.product_operand
            torch.library.register_autocast(qualified, device, torch.float32)


for _name, _schema in _SCHEMAS.items():
    _register(_name, _schema)
