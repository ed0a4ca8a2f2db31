"""Programming, reading and pulsing of devices on the CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from phasegrad.ops import pulses, reference, trains
from phasegrad.ops.arguments import PulsedState, StepLaw, TrackedWeight, TrainRule
from phasegrad.ops.cpu.calls import all_floats, call, doubles, floats_of, optional
from phasegrad.ops.lazy_copies import address


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


def pulse_trains(x: Tensor, d: Tensor, rule: TrainRule, seed: Tensor, offset: int) -> tuple[Tensor, Tensor]:
    if not all_floats(x, d):
        return reference.pulse_trains(x, d, rule, seed, offset)
    trains.check_finite(x, d)
    x, d = x.contiguous(), d.contiguous()
    words_x, words_d = (torch.empty(v.shape, dtype=torch.int32) for v in (x, d))
    call(
        "pulse_trains", words_x.data_ptr(), words_d.data_ptr(), x.data_ptr(), d.data_ptr(), len(x), x.shape[1],
        d.shape[1], *rule, int(seed), offset,
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
    call(
        "pulsed_update", *optional(*state), parameters.data_ptr(), x.data_ptr(), d.data_ptr(), ctypes.byref(refused),
        len(x), *conductance.shape[1:], *rule, len(conductance), parameters[0].numel() == 1, now, *law.planes,
        law.family, coefficients.data_ptr(), *_tracked(tracked), int(seed), offset,
    )  # fmt: skip
    if refused.value:
        trains.check_finite(x, d)


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
