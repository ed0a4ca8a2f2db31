"""Devices on the CPU: programmed, read, pulsed."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from phasegrad.ops import pulses, reference
from phasegrad.ops.cpu.calls import all_floats, call, doubles, floats_of, optional


def pcm_program(
    target: Tensor,
    seed: Tensor,
    offset: int,
    g_max: float,
    spread: Sequence[float],
    nu_mean: Sequence[float],
    nu_sd: Sequence[float],
) -> tuple[Tensor, Tensor]:
    if not all_floats(target):
        return reference.pcm_program(target, seed, offset, g_max, spread, nu_mean, nu_sd)
    target = target.contiguous()
    conductance, nu = torch.empty_like(target), torch.empty_like(target)
    call(
        "pcm_program", conductance.data_ptr(), nu.data_ptr(), target.data_ptr(), target.numel(), g_max,
        doubles(spread), len(spread) - 1, doubles(nu_mean), doubles(nu_sd), int(seed), offset,
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
        "pcm_read", out.data_ptr(), conductance.data_ptr(), nu.data_ptr(), age.data_ptr(), out.numel(),
        int(per_device), g_max, t0, t_read, doubles(noise) if noise else None, int(seed), offset,
    )  # fmt: skip
    return out


def pulse_trains(
    x: Tensor,
    d: Tensor,
    lr: float,
    granularity: float,
    length: int,
    adaptive: bool,
    managed: bool,
    kind: int,
    seed: Tensor,
    offset: int,
) -> tuple[Tensor, Tensor]:
    rule = (lr, granularity, length, adaptive, managed, kind)
    if not all_floats(x, d):
        return reference.pulse_trains(x, d, *rule, seed, offset)
    pulses.check_finite(x, d)
    return _trains(x.contiguous(), d.contiguous(), rule, int(seed), offset)


def _trains(x: Tensor, d: Tensor, rule: tuple[Any, ...], seed: int, offset: int) -> tuple[Tensor, Tensor]:
    words_x, words_d = (torch.empty(v.shape, dtype=torch.int32) for v in (x, d))
    call(
        "pulse_trains", words_x.data_ptr(), words_d.data_ptr(), x.data_ptr(), d.data_ptr(), len(x), x.shape[1],
        d.shape[1], *rule, seed, offset,
    )  # fmt: skip
    return words_x, words_d


def pulsed_update(
    conductance: Tensor,
    history: Tensor | None,
    pulsed_at: Tensor | None,
    weight: Tensor | None,
    others: Tensor | None,
    readout: Sequence[float],
    parameters: Tensor,
    x: Tensor,
    d: Tensor,
    lr: float,
    granularity: float,
    length: int,
    adaptive: bool,
    managed: bool,
    kind: int,
    now: float,
    planes: Sequence[int],
    family: int,
    coefficients: Tensor,
    seed: Tensor,
    offset: int,
) -> None:
    rule = (lr, granularity, length, adaptive, managed, kind)
    state = (conductance, history, pulsed_at)
    if not all_floats(conductance, x, d):
        devices = (*state, weight, others, readout, parameters)
        reference.pulsed_update(*devices, x, d, *rule, now, planes, family, coefficients, seed, offset)
        return
    pulses.check_tables(family, coefficients)
    parameters, coefficients = parameters.contiguous(), coefficients.contiguous()
    x, d, refused = x.contiguous(), d.contiguous(), ctypes.c_int32()
    call(
        "pulsed_update", *optional(*state), parameters.data_ptr(), x.data_ptr(), d.data_ptr(), ctypes.byref(refused),
        len(x), *conductance.shape[1:], *rule, len(conductance), parameters[0].numel() == 1, now, *planes, family,
        coefficients.data_ptr(), *_readout(weight, others, readout), int(seed), offset,
    )  # fmt: skip
    if refused.value:
        pulses.check_finite(x, d)


def pulse_counts(
    conductance: Tensor,
    history: Tensor | None,
    pulsed_at: Tensor | None,
    weight: Tensor | None,
    others: Tensor | None,
    readout: Sequence[float],
    parameters: Tensor,
    counts: Tensor,
    now: float,
    planes: Sequence[int],
    family: int,
    coefficients: Tensor,
    seed: Tensor,
    offset: int,
) -> None:
    pulses.check_tables(family, coefficients)
    parameters, coefficients, counts = parameters.contiguous(), coefficients.contiguous(), counts.contiguous()
    call(
        "pulse_counts", *optional(conductance, history, pulsed_at), parameters.data_ptr(), counts.data_ptr(),
        *conductance.shape[1:], len(conductance), parameters[0].numel() == 1, now, *planes, family,
        coefficients.data_ptr(), *_readout(weight, others, readout), int(seed), offset,
    )  # fmt: skip


def read_out(
    conductance: Tensor, others: Tensor | None, readout: Sequence[float], sd: Sequence[float], seed: Tensor, offset: int
) -> Tensor:
    conductance, others = conductance.contiguous(), None if others is None else others.contiguous()
    out = torch.empty(conductance.shape[1:], dtype=torch.float32)
    call(
        "read_out", out.data_ptr(), conductance.data_ptr(), len(conductance),
        *optional(others), 0 if others is None else len(others), out.numel(), floats_of(readout),
        floats_of((*sd, 0.0, 0.0)) if sd else None, int(seed), offset,
    )  # fmt: skip
    return out


def leak(
    conductance: Tensor, level: float, lost: float, weight: Tensor | None, others: Tensor | None,
    readout: Sequence[float],
) -> None:  # fmt: skip
    call(
        "leak", conductance.data_ptr(), len(conductance), conductance[0].numel(), level, lost,
        *_readout(weight, None if others is None else others.contiguous(), readout),
    )  # fmt: skip


def _readout(weight: Tensor | None, others: Tensor | None, readout: Sequence[float]) -> tuple[Any, ...]:
    return (*optional(weight, others), 0 if others is None else len(others), floats_of(readout))
