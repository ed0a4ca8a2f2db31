"""Programming, reading and pulsing of devices on the CPU."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from phasegrad.ops import pulses, reference, trains, workspace
from phasegrad.ops.arguments import PulsedState, StepLaw, TrackedWeight, TrainRule
from phasegrad.ops.cpu.calls import all_floats, call, doubles, floats_of, optional
from phasegrad.ops.lazy_copies import address
from phasegrad.ops.native import library


def pcm_program(
    target: Tensor,
    seed: Tensor,
    offset: int,
    g_max: float,
    programming_sd: Sequence[float],
    nu_mean: Sequence[float],
    nu_sd: Sequence[float],
) -> tuple[Tensor, Tensor]:
    if not all_floats(target):
        return reference.pcm_program(target, seed, offset, g_max, programming_sd, nu_mean, nu_sd)
    target = target.contiguous()
    conductance, nu = torch.empty_like(target), torch.empty_like(target)
    call(
        "pcm_program", conductance.data_ptr(), nu.data_ptr(), target.data_ptr(), target.numel(), g_max,
        doubles(programming_sd), len(programming_sd) - 1, doubles(nu_mean), doubles(nu_sd), int(seed), offset,
    )  # fmt: skip
    return conductance, nu


def pcm_read(
    conductance: Tensor,
    nu: Tensor,
    age: Tensor,
    seed: Tensor,
    offset: int,
    g_max: float,
    t0: float,
    t_read: float,
    noise: Sequence[float],
) -> Tensor:
    if not all_floats(conductance, nu) or age.dtype != torch.float64:
        return reference.pcm_read(conductance, nu, age, seed, offset, g_max, t0, t_read, noise)
    per_device = age.numel() != 1
    age = (age.expand(conductance.shape) if per_device else age).contiguous()
    conductance, nu = conductance.contiguous(), nu.contiguous()
    out = torch.empty_like(conductance)
    call(
        "pcm_read", out.data_ptr(), address(conductance), address(nu), age.data_ptr(), out.numel(),
        int(per_device), g_max, t0, t_read, doubles(noise) if noise else None, int(seed), offset,
    )  # fmt: skip
    return out


def pcm_cells(
    conductance: Tensor,
    nu: Tensor,
    age: Tensor,
    seed: Tensor,
    offset: int,
    g_max: float,
    t0: float,
    t_read: float,
    noise: Sequence[float],
    factors: Sequence[float],
    scale: Tensor | None,
    rows: int,
) -> Tensor:
    if not all_floats(conductance, nu, *([] if scale is None else [scale])):
        return reference.pcm_cells(
            conductance, nu, age, seed, offset, g_max, t0, t_read, noise, factors, scale, rows
        )  # fmt: skip
    conductance, nu = conductance.contiguous(), nu.contiguous()
    scale = None if scale is None else scale.contiguous()
    out = torch.empty(conductance.shape[1:], dtype=torch.float32)
    call(
        "pcm_cells", out.data_ptr(), address(conductance), address(nu), float(age), *conductance.shape, g_max, t0,
        t_read, doubles(noise) if noise else None, floats_of(factors), None if scale is None else address(scale), rows,
        int(seed), offset,
    )  # fmt: skip
    return out


def noisy_cells(
    mean: Tensor,
    sd: Tensor | None,
    seed: Tensor,
    offset: int,
    factors: Sequence[float],
    scale: Tensor | None,
    rows: int,
) -> Tensor:
    if not all_floats(mean, *(t for t in (sd, scale) if t is not None)):
        return reference.noisy_cells(mean, sd, seed, offset, factors, scale, rows)
    mean, sd, scale = mean.contiguous(), *(None if t is None else t.contiguous() for t in (sd, scale))
    out = torch.empty(mean.shape[1:], dtype=torch.float32)
    call(
        "noisy_cells", out.data_ptr(), address(mean), None if sd is None else address(sd), *mean.shape,
        floats_of(factors), None if scale is None else address(scale), rows, int(seed), offset,
    )  # fmt: skip
    return out


def pcm_moments(
    conductance: Tensor, nu: Tensor, age: Tensor, g_max: float, t0: float, t_read: float, noise: Sequence[float]
) -> tuple[Tensor, Tensor]:
    if not all_floats(conductance, nu) or age.numel() != 1:
        return reference.pcm_moments(conductance, nu, age, g_max, t0, t_read, noise)
    conductance, nu = conductance.contiguous(), nu.contiguous()
    mean, sd = torch.empty_like(conductance), torch.empty_like(conductance)
    call(
        "pcm_moments", mean.data_ptr(), sd.data_ptr(), address(conductance), address(nu), float(age), mean.numel(),
        g_max, t0, t_read, doubles(noise) if noise else None,
    )  # fmt: skip
    return mean, sd


def rectified_cells(
    mean: Tensor, sd: Tensor, factors: Sequence[float], scale: Tensor, rows: int
) -> tuple[Tensor, Tensor]:
    if not all_floats(mean, sd, scale):
        return reference.rectified_cells(mean, sd, factors, scale, rows)
    mean, sd, scale = mean.contiguous(), sd.contiguous(), scale.contiguous()
    weight, variance = (torch.empty(mean.shape[1:], dtype=torch.float32) for _ in range(2))
    call(
        "rectified_cells", weight.data_ptr(), variance.data_ptr(), address(mean), address(sd), *mean.shape,
        floats_of(factors), address(scale), rows,
    )  # fmt: skip
    return weight, variance


def row_products(x: Tensor, mean: Tensor, variance: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    brains = variance.dtype == torch.bfloat16
    if not all_floats(x, mean) or not (brains or all_floats(variance)):
        return reference.row_products(x, mean, variance, rows)
    x, mean, variance = x.contiguous(), mean.contiguous(), variance.contiguous()
    y, v = (torch.empty(-(-len(x) // rows), len(mean), dtype=torch.float32) for _ in range(2))
    call(
        "row_products", y.data_ptr(), v.data_ptr(), address(x), address(mean), address(variance), int(brains),
        *mean.shape, rows,
    )  # fmt: skip
    return y, v


def pulse_trains(x: Tensor, d: Tensor, rule: TrainRule, seed: Tensor, offset: int) -> tuple[Tensor, Tensor]:
    if not all_floats(x, d):
        return reference.pulse_trains(x, d, rule, seed, offset)
    trains.check_finite(x, d)
    x, d = x.contiguous(), d.contiguous()
    words_x, words_d = (torch.empty(v.shape, dtype=torch.int32) for v in (x, d))
    scratch = workspace.scratch("pulses", torch.uint8, 24 * len(x))
    call(
        "pulse_trains", words_x.data_ptr(), words_d.data_ptr(), scratch.data_ptr(), x.data_ptr(), d.data_ptr(), len(x),
        x.shape[1], d.shape[1], *rule, int(seed), offset,
    )  # fmt: skip
    return words_x, words_d


def pulsed_update(
    state: PulsedState,
    tracked: TrackedWeight,
    parameters: Tensor,
    x: Tensor,
    d: Tensor,
    rule: TrainRule,
    now: float,
    law: StepLaw,
    seed: Tensor,
    offset: int,
) -> None:
    conductance = state.conductance
    if not all_floats(conductance, x, d):
        reference.pulsed_update(state, tracked, parameters, x, d, rule, now, law, seed, offset)
        return
    pulses.check_tables(law)
    parameters, coefficients = parameters.contiguous(), law.coefficients.contiguous()
    x, d, refused = x.contiguous(), d.contiguous(), ctypes.c_int32()
    sizes = (len(x), *conductance.shape[1:], conductance.shape[1] // d.shape[1])
    scratch = update_scratch(sizes, torch.get_num_threads())
    call(
        "pulsed_update", *optional(*state), parameters.data_ptr(), x.data_ptr(), d.data_ptr(), ctypes.byref(refused),
        scratch.data_ptr(), *sizes, *rule, len(conductance), parameters[0].numel() == 1, now, *law.planes,
        law.family, coefficients.data_ptr(), *_tracked(tracked), int(seed), offset,
    )  # fmt: skip
    if refused.value:
        trains.check_finite(x, d)


def update_scratch(sizes: tuple[int, ...], threads: int) -> Tensor:
    """The memory that a pulsed update needs while it runs; sizes: batch, outputs, inputs, groups."""
    return workspace.scratch_bytes("pulses", _scratch_bytes(*sizes, threads))


@functools.lru_cache(maxsize=256)
def _scratch_bytes(batch: int, out: int, features: int, groups: int, threads: int) -> int:
    """Memory that a pulsed update needs while it runs."""
    assert library is not None
    size = ctypes.c_int64()
    library.pg_pulse_scratch(ctypes.byref(size), batch, out, features, groups, threads)
    return size.value


def pulse_counts(
    state: PulsedState,
    tracked: TrackedWeight,
    parameters: Tensor,
    counts: Tensor,
    now: float,
    law: StepLaw,
    seed: Tensor,
    offset: int,
) -> None:
    pulses.check_tables(law)
    pulses.check_counts(counts, parameters, law)
    conductance = state.conductance
    parameters, coefficients, counts = parameters.contiguous(), law.coefficients.contiguous(), counts.contiguous()
    call(
        "pulse_counts", *optional(*state), parameters.data_ptr(), counts.data_ptr(), *conductance.shape[1:],
        len(conductance), parameters[0].numel() == 1, now, *law.planes, law.family, coefficients.data_ptr(),
        *_tracked(tracked), int(seed), offset,
    )  # fmt: skip


def weighted_sum(
    conductance: Tensor,
    other_planes: Tensor | None,
    factors: Sequence[float],
    sd: Sequence[float],
    seed: Tensor,
    offset: int,
) -> Tensor:
    conductance = conductance.contiguous()
    other_planes = None if other_planes is None else other_planes.contiguous()
    out = torch.empty(conductance.shape[1:], dtype=torch.float32)
    others = (None, 0) if other_planes is None else (address(other_planes), len(other_planes))
    call(
        "weighted_sum", out.data_ptr(), address(conductance), len(conductance), *others, out.numel(),
        floats_of(factors), floats_of((*sd, 0.0, 0.0)) if sd else None, int(seed), offset,
    )  # fmt: skip
    return out


def leak(conductance: Tensor, level: float, lost: float, tracked: TrackedWeight) -> None:
    call(
        "leak", conductance.data_ptr(), len(conductance), conductance[0].numel(), level, lost, *_tracked(tracked),
    )  # fmt: skip


def _tracked(tracked: TrackedWeight) -> tuple[Any, ...]:
    weight, other_planes, factors = tracked
    return (*optional(weight, other_planes), 0 if other_planes is None else len(other_planes), floats_of(factors))
