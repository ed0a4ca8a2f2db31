"""Trains of pulses on word and bit lines, in plain torch: the definition, which the C++ kernel matches to the bit.

A line's train is a 32-bit word: bit ``t`` (0 to 30) says whether the line fires in slot ``t``, bit 31 is the sign of
its value. A device is pulsed in the slots in which both of its lines fire; the pulse's sign is ``-sign(x d)``, so that
the update descends the gradient.

References:
    Gokmen and Vlasov, "Acceleration of deep neural network training with resistive cross-point devices: design
    considerations", Front. Neurosci. 10:333 (2016), doi:10.3389/fnins.2016.00333: stochastic trains.
    Gokmen, Onen and Haensch, "Training deep convolutional neural networks with resistive cross-point devices",
    Front. Neurosci. 11:538 (2017), doi:10.3389/fnins.2017.00538: update management.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from phasegrad.ops.arguments import TrainRule
from phasegrad.ops.philox import philox4x32

STOCHASTIC, DETERMINISTIC, MEAN_COUNT = 0, 1, 2

LONGEST = 31
"""Slots of the longest train."""
SHORT = 4
"""Slots of the longest train that has a random word for each slot."""
STREAMS = 16
"""Offsets that the trains of one update use."""
SLOTS = 0x7FFFFFFF
"""The bits of a word that are slots."""

NOT_FINITE = (
    "pulsed_update: x or d is not finite; no device was pulsed. Look for a diverged loss or a learning rate that is "
    "too high"
)

_MASK = 0xFFFFFFFF
_SIGN = 1 << 31


class _Firing(NamedTuple):
    """Firing probabilities and signs of the lines on one side, ``[batch, lines]``."""

    p: Tensor
    """Probability of firing in a slot, float64."""
    negative: Tensor


def pulse_trains(
    x: Tensor,
    d: Tensor,
    rule: TrainRule,
    seed: Tensor,
    offset: int,
) -> tuple[Tensor, Tensor]:
    """Trains of every line for every sample: int32 ``[batch, in]`` and ``[batch, out]``.

    With ``MEAN_COUNT`` nothing fires; the words are the bits of float32 numbers whose product is the mean number of
    coincidences.
    """
    check_finite(x, d)
    lr, dw_min, length, bl_management, update_management, kind = rule
    largest_x, largest_d = (v.abs().double().amax(1, keepdim=True) for v in (x, d))
    k = lr * largest_x * largest_d / dw_min
    one = torch.ones_like(k)
    slots = torch.clamp(torch.ceil(k), max=float(length)) if bl_management else length * one
    slots = torch.where(k > 0, slots, torch.zeros_like(k))
    a = torch.sqrt(lr / (dw_min * torch.where(slots > 0, slots, one)))
    b = a
    if update_management:
        saturated = torch.where(k > length, largest_d * (length / torch.where(k > 0, k, one)), largest_d)
        ratio = torch.where(k > 0, largest_x / torch.where(k > 0, saturated, one), one)
        a, b = a * torch.sqrt(ratio), b * torch.sqrt(1.0 / ratio)
    firing_x, firing_d = (
        _Firing(torch.where(k > 0, torch.clamp(v.abs().double() * amplitude, max=1.0), 0.0 * k), v < 0)
        for v, amplitude in ((x, b), (d, a))
    )
    slots = slots.long()
    if kind == MEAN_COUNT:
        words = _bits(firing_x.p), _bits(firing_d.p * slots)
    elif kind == DETERMINISTIC:
        n_x, n_d = (torch.floor(slots * side.p + 0.5).long() for side in (firing_x, firing_d))
        words = (1 << n_x) - 1, _evenly(n_d, slots)
    else:
        key = int(seed)
        words = tuple(_fire(p, slots, key, offset + 8 * side) for side, p in enumerate((firing_x.p, firing_d.p)))
    return _signed(words[0], firing_x.negative), _signed(words[1], firing_d.negative)


def check_finite(x: Tensor, d: Tensor) -> None:
    """Raise if an input or gradient is not finite."""
    if not bool(torch.isfinite(x).all()) or not bool(torch.isfinite(d).all()):
        raise ValueError(NOT_FINITE)


def _signed(word: Tensor, negative: Tensor) -> Tensor:
    word = torch.where(negative, word | _SIGN, word)
    return torch.where(word >= _SIGN, word - (1 << 32), word).to(torch.int32)


def _bits(value: Tensor) -> Tensor:
    return value.float().view(torch.int32).long()


def _evenly(n: Tensor, slots: Tensor) -> Tensor:
    """``n`` of the slots, evenly spaced: any first ``m`` slots contain ``m n / slots`` of them, rounded."""
    word = torch.zeros_like(n)
    length = slots.clamp(min=1)
    for t in range(LONGEST):
        before, after = ((2 * t * n + length) // (2 * length), (2 * (t + 1) * n + length) // (2 * length))
        word |= torch.where((after > before) & (t < slots), 1 << t, 0)
    return word


def _fire(p: Tensor, slots: Tensor, seed: int, offset: int) -> Tensor:
    """Words in which each bit is set with probability ``p`` (31-bit resolution): a uniform number lies below ``p``.

    Trains of at most ``SHORT`` slots draw a random word for each slot. In longer ones the numbers of all slots are
    compared at once, bit by bit from the top; the random word for bit ``b`` holds that bit of every slot's number.
    """
    below = torch.floor(p * 2.0**31).long()
    element = torch.arange(p.numel(), dtype=torch.int64, device=p.device).view(p.shape)
    full = ((1 << slots) - 1).expand(p.shape)
    return (
        torch.where(
            slots <= SHORT, _fire_short(below, element, seed, offset), _fire_long(below, full, element, seed, offset)
        )
        & full
    )


def _random_words(element: Tensor, seed: int, offset: int) -> tuple[Tensor, ...]:
    low, high = (torch.full_like(element, c) for c in (offset & _MASK, offset >> 32))
    return philox4x32((element & _MASK, element >> 32, low, high), (seed & _MASK, (seed >> 32) & _MASK))


def _fire_short(below: Tensor, element: Tensor, seed: int, offset: int) -> Tensor:
    words = _random_words(element, seed, offset)
    return sum((((words[t] >> 1) < below).long() << t for t in range(SHORT)), torch.zeros_like(below))


def _fire_long(below: Tensor, full: Tensor, element: Tensor, seed: int, offset: int) -> Tensor:
    word = torch.where(below >= _SIGN, full, 0)
    undecided = torch.where(below >= _SIGN, 0, full)
    random: tuple[Tensor, ...] = ()
    for t in range(LONGEST):
        if t % 4 == 0:
            random = _random_words(element, seed, offset + t // 4)
        bit = torch.where((below >> (30 - t)) & 1 > 0, SLOTS, 0)
        word |= undecided & ~random[t % 4] & bit
        undecided = undecided & ~(random[t % 4] ^ bit)
    return word
