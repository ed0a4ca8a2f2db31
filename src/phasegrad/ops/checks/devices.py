"""Checks of devices that are programmed, read, pulsed and wired."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from phasegrad.ops import pulses, trains
from phasegrad.ops.arguments import PulsedState, StepLaw, TrackedWeight, TrainRule
from phasegrad.ops.checks.common import broadcasts, check_floating, check_law, check_seed, check_shapes


def check_program(
    target: Tensor, seed: Tensor, offset: int, g_max: float, programming_sd: Sequence[float], nu_mean: Sequence[float],
    nu_sd: Sequence[float],
) -> None:  # fmt: skip
    check_floating("pcm_program", target=target)
    check_seed("pcm_program", seed, target)
    if not programming_sd:
        raise ValueError("pcm_program: programming_sd is empty; give at least the coefficient of g^0")
    check_law("pcm_program", "nu_mean", nu_mean)
    check_law("pcm_program", "nu_sd", nu_sd)


def check_read(
    conductance: Tensor, nu: Tensor, age: Tensor, seed: Tensor, offset: int, g_max: float, t0: float, t_read: float,
    noise: Sequence[float],
) -> None:  # fmt: skip
    check_floating("pcm_read", conductance=conductance, nu=nu, age=age)
    check_seed("pcm_read", seed, conductance)
    if nu.shape != conductance.shape:
        raise ValueError(
            f"pcm_read: nu has shape {list(nu.shape)}, conductance {list(conductance.shape)}; they must be equal"
        )
    if age.numel() != 1 and not broadcasts(age.shape, conductance.shape):
        raise ValueError(
            f"pcm_read: age has shape {list(age.shape)}, conductance {list(conductance.shape)}; give one age, or "
            "ages that broadcast to the devices"
        )
    if noise:
        check_law("pcm_read", "noise", noise)


_LARGEST_RATE = 1e200


def check_moments(
    conductance: Tensor, nu: Tensor, age: Tensor, g_max: float, t0: float, t_read: float, noise: Sequence[float]
) -> None:
    no_seed = torch.zeros(1, dtype=torch.int64, device=conductance.device)
    check_read(conductance, nu, age, no_seed, 0, g_max, t0, t_read, noise)


def check_pcm_cells(
    conductance: Tensor, nu: Tensor, age: Tensor, seed: Tensor, offset: int, g_max: float, t0: float, t_read: float,
    noise: Sequence[float], factors: Sequence[float], scale: Tensor | None, rows: int,
) -> None:  # fmt: skip
    check_read(conductance, nu, age, seed, offset, g_max, t0, t_read, noise)
    if age.numel() != 1:
        raise ValueError(f"pcm_cells: age has shape {list(age.shape)}; give one age for all devices")
    _check_cells("pcm_cells", conductance, factors, scale, rows)


def check_noisy_cells(
    mean: Tensor, sd: Tensor | None, seed: Tensor, offset: int, factors: Sequence[float], scale: Tensor | None,
    rows: int,
) -> None:  # fmt: skip
    check_floating("noisy_cells", mean=mean)
    check_seed("noisy_cells", seed, mean)
    if sd is not None:
        check_shapes("noisy_cells", mean=mean, sd=sd)
    _check_cells("noisy_cells", mean, factors, scale, rows)


def check_rectified_cells(mean: Tensor, sd: Tensor, factors: Sequence[float], scale: Tensor, rows: int) -> None:
    check_floating("rectified_cells", mean=mean, sd=sd, scale=scale)
    check_shapes("rectified_cells", mean=mean, sd=sd)
    _check_cells("rectified_cells", mean, factors, scale, rows)


def check_row_products(x: Tensor, mean: Tensor, variance: Tensor, rows: int) -> None:
    check_floating("row_products", x=x, mean=mean, variance=variance)
    check_shapes("row_products", mean=mean, variance=variance)
    if x.dim() != 1 or mean.dim() != 2 or len(x) != mean.shape[1] or rows < 1:
        raise ValueError(
            f"row_products: x is {list(x.shape)}, mean {list(mean.shape)} and rows = {rows}; they must be [in], "
            "[out, in] and 1 or more"
        )


def _check_cells(op: str, devices: Tensor, factors: Sequence[float], scale: Tensor | None, rows: int) -> None:
    if devices.dim() != 3 or len(factors) != 1 + len(devices) or len(devices) == 0:
        raise ValueError(
            f"{op}: devices have shape {list(devices.shape)}, and there are {len(factors)} factors; give [planes, out, "
            "in], an offset, and a factor per plane"
        )
    expected = [-(-devices.shape[2] // max(rows, 1)), devices.shape[1]]
    if rows < 1 or (scale is not None and list(scale.shape) != expected):
        raise ValueError(
            f"{op}: rows = {rows} and scale {None if scale is None else list(scale.shape)}; rows must be 1 or more, "
            f"and scale [row tiles, out] = {expected}"
        )


def check_trains(x: Tensor, d: Tensor, rule: TrainRule, seed: Tensor, offset: int) -> None:
    op = "pulsed_update"
    check_floating(op, x=x, d=d)
    check_seed(op, seed, x)
    if x.dim() != 2 or d.dim() != 2 or len(x) != len(d) or x.shape[1] == 0 or d.shape[1] == 0:
        raise ValueError(f"{op}: x is {list(x.shape)} and d {list(d.shape)}; they must be [batch, in] and [batch, out]")
    check_rule(*rule)


def check_rule(lr: float, dw_min: float, length: int, bl_management: bool, update_management: bool, kind: int) -> None:
    """Raise ``ValueError`` if the fields of a ``TrainRule`` have no meaning."""
    op = "pulsed_update"
    if not (math.isfinite(lr) and lr >= 0.0):
        raise ValueError(f"{op}: the learning rate is {lr}; it must be finite and not negative")
    if not (math.isfinite(dw_min) and dw_min > 0.0):
        raise ValueError(f"{op}: dw_min = {dw_min}; the change of one pulse must be finite and above 0")
    if lr / dw_min > _LARGEST_RATE:
        raise ValueError(
            f"{op}: the learning rate is {lr} and dw_min = {dw_min}; their ratio must be at most {_LARGEST_RATE:g}, so "
            "that the number of pulses of any two floats is finite"
        )
    if not 1 <= length <= trains.LONGEST or kind not in (trains.STOCHASTIC, trains.DETERMINISTIC, trains.MEAN_COUNT):
        raise ValueError(
            f"{op}: trains of {length} slots and kind {kind}; use 1 to {trains.LONGEST} slots, and kind 0, 1 or 2"
        )


def check_wired(conductance: Tensor, *resistances: float) -> None:
    op = "wired_conductance"
    check_floating(op, conductance=conductance)
    if conductance.dim() < 2:
        raise ValueError(f"{op}: conductance has shape {list(conductance.shape)}; it must be [..., rows, columns]")
    for name, value in zip(("word_line", "bit_line", "driver", "sense"), resistances, strict=False):
        if not (math.isfinite(value) and value >= 0.0):
            raise ValueError(f"{op}: {name} = {value} ohm; a resistance must be finite and not negative")


def check_wired_backward(grad: Tensor, conductance: Tensor, *resistances: float) -> None:
    check_wired(conductance, *resistances)
    check_floating("wired_conductance_backward", grad=grad, conductance=conductance)
    check_shapes("wired_conductance_backward", grad=grad, conductance=conductance)


# Coefficients of each family, including the noise; those of tables depend on the size.
_COEFFICIENTS = {pulses.LINEAR: 4, pulses.EXPONENTIAL: 7, pulses.POWER: 3, pulses.HISTORY: 8}


def check_pulsed_update(
    state: PulsedState, tracked: TrackedWeight, parameters: Tensor, x: Tensor, d: Tensor, rule: TrainRule, now: float,
    law: StepLaw, seed: Tensor, offset: int,
) -> None:  # fmt: skip
    check_trains(x, d, rule, seed, offset)
    out = state.conductance.shape[1] if state.conductance.dim() == 3 else 0
    lines = (d.shape[1] if out % d.shape[1] else out, x.shape[1])  # d of all outputs, or of those of one group
    check_pulsed("pulsed_update", lines, x.device, state, parameters, law)
    check_tracked("pulsed_update", state.conductance, tracked)


def check_pulse_counts(
    state: PulsedState, tracked: TrackedWeight, parameters: Tensor, counts: Tensor, now: float, law: StepLaw,
    seed: Tensor, offset: int,
) -> None:  # fmt: skip
    if counts.dtype != torch.int32 or counts.dim() != 2:
        raise TypeError(f"pulse_counts: counts are {counts.dtype} {list(counts.shape)}; they must be int32 [out, in]")
    check_seed("pulse_counts", seed, counts)
    check_pulsed("pulse_counts", (counts.shape[0], counts.shape[1]), counts.device, state, parameters, law)
    check_tracked("pulse_counts", state.conductance, tracked)


def check_tracked(op: str, conductance: Tensor, tracked: TrackedWeight) -> None:
    weight, others, factors = tracked
    if weight is None:
        return
    shape = conductance.shape[1:]
    for name, t in (("weight", weight), ("other_planes", others)):
        if t is None:
            continue
        has = t.shape if t is weight else t.shape[1:]
        if t.dtype is not torch.float32 or t.device != conductance.device or has != shape or not t.is_contiguous():
            raise ValueError(
                f"{op}: {name} is {t.dtype} {list(t.shape)} on {t.device}; it must be contiguous float32 "
                f"{list(shape) if t is weight else ['planes', *shape]} on {conductance.device}"
            )
    planes = len(conductance) + (0 if others is None else len(others))
    if len(factors) != 1 + planes:
        raise ValueError(
            f"{op}: factors has {len(factors)} numbers; it must have an offset and one for each of {planes} planes"
        )


def check_weighted_sum(
    conductance: Tensor, other_planes: Tensor | None, factors: Sequence[float], sd: Sequence[float], seed: Tensor,
    offset: int,
) -> None:  # fmt: skip
    others = conductance[:0] if other_planes is None else other_planes
    planes = len(conductance) + len(others)
    for name, t in (("conductance", conductance), ("other_planes", others)):
        if t.dtype != torch.float32 or t.dim() != 3 or t.shape[1:] != conductance.shape[1:]:
            raise ValueError(f"weighted_sum: {name} is {t.dtype} {list(t.shape)}; it must be float32 [planes, out, in]")
    if len(factors) != 1 + planes or len(sd) > 3:
        raise ValueError(
            f"weighted_sum: factors has {len(factors)} numbers and sd {len(sd)}; factors must have an offset and one "
            f"for each of {planes} planes, sd three at most"
        )
    check_seed("weighted_sum", seed, conductance)


def check_leak(conductance: Tensor, level: float, lost: float, tracked: TrackedWeight) -> None:
    if conductance.dtype != torch.float32 or conductance.dim() != 3 or not conductance.is_contiguous():
        raise ValueError(
            f"leak: conductance is {conductance.dtype} {list(conductance.shape)}; it must be contiguous float32 "
            "[planes, out, in]"
        )
    if not (math.isfinite(level) and 0.0 <= lost <= 1.0):
        raise ValueError(f"leak: level = {level} and lost = {lost}; the level must be finite, and lost in [0, 1]")
    check_tracked("leak", conductance, tracked)


def check_pulsed(
    op: str, lines: tuple[int, int], device: torch.device, state: PulsedState, parameters: Tensor, law: StepLaw
) -> None:
    (conductance, history, pulsed_at), (planes, family, coefficients) = state, law
    shape, states = conductance.shape, (conductance, parameters, coefficients, history)
    for name, t in zip(("conductance", "parameters", "coefficients", "history"), states, strict=True):
        if t is not None and (t.dtype is not torch.float32 or t.device != device):
            raise TypeError(f"{op}: {name} is {t.dtype} on {t.device}; it must be float32 on {device}")
    if len(shape) != 3 or shape[1:] != lines or not conductance.is_contiguous():
        raise ValueError(
            f"{op}: conductance has shape {list(shape)}; it must be contiguous [planes, {lines[0]}, {lines[1]}]"
        )
    for name, t in (("history", history), ("pulsed_at", pulsed_at)):
        if t is not None and (t.shape != shape or not t.is_contiguous()):
            raise ValueError(f"{op}: {name} has shape {list(t.shape)}; it must be contiguous {list(shape)}")
    if pulsed_at is not None and (pulsed_at.dtype != torch.float64 or pulsed_at.device != device):
        raise TypeError(f"{op}: pulsed_at is {pulsed_at.dtype} on {pulsed_at.device}; float64 on {device} is wanted")
    if parameters.shape not in ((4, *shape), (4, 1, 1, 1)):
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
        raise ValueError(f"{op}: a device with history only grows; planes must name a second device for pulses down")
    if family in _COEFFICIENTS and coefficients.numel() != _COEFFICIENTS[family]:
        raise ValueError(f"{op}: {coefficients.numel()} coefficients; family {family} has {_COEFFICIENTS[family]}")
