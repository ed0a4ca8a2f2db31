"""The pulsed update in plain torch: trains of pulses on the lines, coincidences, and how a device steps.

This file is the definition; the C++ kernel gives the same trains and coincidences to the bit, and the same state to
float rounding.

A line's train is a 32-bit word: bit ``t`` (0 to 30) says whether it fires in slot ``t``, bit 31 is the sign of its
value. A device is pulsed in the slots where both of its lines fire; the pulse's sign is ``-sign(x d)``, so that the
weight descends. Samples act one after another, and so do the pulses of one sample: every pulse sees the state that
the one before it left.

Sources: Gokmen and Vlasov, Front. Neurosci. 10:333 (2016) for trains and update management; the step laws are those
of :mod:`phasegrad.devices`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from phasegrad.ops.arguments import PulsedState, StepLaw, TrackedWeight, TrainRule
from phasegrad.ops.philox import box_muller, philox4x32
from phasegrad.ops.readout import read_out

STOCHASTIC, DETERMINISTIC, MEAN_COUNT = 0, 1, 2
LINEAR, EXPONENTIAL, POWER, PIECEWISE, TABLE, HISTORY = 0, 1, 2, 3, 4, 5

LONGEST = 31
"""Slots of the longest train."""
SHORT = 4
"""Slots of trains whose slots have a random word each."""
STREAMS = 16
"""Offsets that one update takes for its trains."""

_MASK = 0xFFFFFFFF
_SLOTS = 0x7FFFFFFF
_SIGN = 1 << 31
_GOLDEN = 0x9E3779B9


# --- trains ---------------------------------------------------------------------------------------------------


class _Lines(NamedTuple):
    """What the lines of one side do, ``[batch, lines]``."""

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
    lines_x, lines_d = (
        _Lines(torch.where(k > 0, torch.clamp(v.abs().double() * amplitude, max=1.0), 0.0 * k), v < 0)
        for v, amplitude in ((x, b), (d, a))
    )
    slots = slots.long()
    if kind == MEAN_COUNT:
        words = _bits(lines_x.p), _bits(lines_d.p * slots)
    elif kind == DETERMINISTIC:
        n_x, n_d = (torch.floor(slots * lines.p + 0.5).long() for lines in (lines_x, lines_d))
        words = (1 << n_x) - 1, _spread(n_d, slots)
    else:
        key = int(seed)
        words = tuple(_fire(p, slots, key, offset + 8 * side) for side, p in enumerate((lines_x.p, lines_d.p)))
    return _signed(words[0], lines_x.negative), _signed(words[1], lines_d.negative)


def _signed(word: Tensor, negative: Tensor) -> Tensor:
    word = torch.where(negative, word | _SIGN, word)
    return torch.where(word >= _SIGN, word - (1 << 32), word).to(torch.int32)


def _bits(value: Tensor) -> Tensor:
    return value.float().view(torch.int32).long()


def _spread(n: Tensor, slots: Tensor) -> Tensor:
    """``n`` of the slots, evenly spread, so that any first ``m`` slots hold ``m n / slots`` of them, rounded."""
    word = torch.zeros_like(n)
    length = slots.clamp(min=1)
    for t in range(LONGEST):
        before, after = ((2 * t * n + length) // (2 * length), (2 * (t + 1) * n + length) // (2 * length))
        word |= torch.where((after > before) & (t < slots), 1 << t, 0)
    return word


def _fire(p: Tensor, slots: Tensor, seed: int, offset: int) -> Tensor:
    """Words whose bits are set with probability ``p``, to 31 bits: where a uniform number of 31 bits lies below it.

    Trains of at most ``SHORT`` slots take a random word for each slot. In longer ones the numbers of all slots are
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
        bit = torch.where((below >> (30 - t)) & 1 > 0, _SLOTS, 0)
        word |= undecided & ~random[t % 4] & bit
        undecided = undecided & ~(random[t % 4] ^ bit)
    return word


# --- devices --------------------------------------------------------------------------------------------------


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
    """Pulse devices in place.

    Args:
        state: of the devices.
        tracked: the weight that the devices stand for, updated with them.
        parameters: step up, step down, lowest and highest conductance of each device, ``[4, planes, out, in]``, or
            ``[4, 1, 1, 1]`` for all.
        x: inputs ``[batch, in]``.
        d: gradients of the outputs ``[batch, out]``.
        rule: how ``x`` and ``d`` become trains.
        now: time to note in ``pulsed_at``.
        law: which devices are pulsed, and how a pulse changes them.
        seed: of all draws.
        offset: first of the streams it takes, ``STREAMS + 1`` for every ``TOGETHER`` samples.
    """
    check_finite(x, d)
    check_tables(law)
    step = _Stepper(state, parameters, law)
    shape = state.conductance.shape[1:]
    index = torch.arange(shape.numel(), dtype=torch.int64, device=x.device).view(shape)
    for some_x, some_d, streams in together(x, d, offset):
        words = pulse_trains(some_x, some_d, rule, seed, streams)
        key = _keys(index, int(seed), streams + STREAMS)
        _pulse_samples(step, words, key, rule.kind, state.pulsed_at, now)
    if tracked.weight is not None:
        tracked.weight.copy_(read_out(state.conductance, *tracked[1:], (), seed, offset))


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
    """Send every weight its own number of pulses, in place: programming by counted pulses, weight by weight.

    ``counts`` is int32 ``[out, in]``: above 0 the weight grows, below it shrinks. ``offset`` is that of the one stream
    it takes; the other arguments are those of :func:`pulsed_update`.
    """
    check_tables(law)
    step = _Stepper(state, parameters, law)
    index = torch.arange(counts.numel(), dtype=torch.int64, device=counts.device).view(counts.shape)
    key = _keys(index, int(seed), offset)
    for i in range(int(counts.abs().max()) if counts.numel() else 0):
        step.pulse(counts.abs() > i, counts < 0, key, torch.full_like(key, i))
    if state.pulsed_at is not None:
        for plane, hit in zip(law.planes, (counts > 0, counts < 0), strict=True):
            state.pulsed_at[plane].masked_fill_(hit, now)
    if tracked.weight is not None:
        tracked.weight.copy_(read_out(state.conductance, *tracked[1:], (), seed, offset))


TOGETHER = 1024
"""Samples whose trains are made, and kept, at a time."""


def together(x: Tensor, d: Tensor, offset: int) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Inputs and gradients of so many samples, and the first of their streams."""
    for i, (some_x, some_d) in enumerate(zip(x.split(TOGETHER), d.split(TOGETHER), strict=True)):
        yield some_x, some_d, offset + i * (STREAMS + 1)


def check_finite(x: Tensor, d: Tensor) -> None:
    """Refuse what cannot become pulses, before any device is touched."""
    if not bool(torch.isfinite(x).all()) or not bool(torch.isfinite(d).all()):
        raise ValueError(
            "pulsed_update: x or d is not finite; no device was pulsed. Look for a diverged loss or a learning rate "
            "that is too high"
        )


def check_tables(law: StepLaw) -> None:
    """Refuse tables whose stated size is not their own: a kernel would read beyond them."""
    _, family, coefficients = law
    if family not in (PIECEWISE, TABLE):
        return
    head = 2 if family == PIECEWISE else 3
    sizes = [int(n) for n in coefficients[1:head].tolist()]
    if len(sizes) != head - 1 or min(sizes) < 2 or coefficients.numel() != head + 2 * math.prod(sizes):
        raise ValueError(
            f"pulsed_update: {coefficients.numel()} coefficients for two tables of {sizes} points; there must be "
            f"{head} + 2 x {' x '.join(map(str, sizes))}, and two points at least along each axis"
        )


def _pulse_samples(
    step: _Stepper, words: tuple[Tensor, Tensor], key: Tensor, kind: int, pulsed_at: Tensor | None, now: float
) -> None:
    count = torch.zeros_like(key)
    touched = [torch.zeros_like(key, dtype=torch.bool) for _ in range(2)]
    for s, (line_x, line_d) in enumerate(zip(*words, strict=True)):
        line_x, line_d = line_x.unsqueeze(0), line_d.unsqueeze(1)
        if kind == MEAN_COUNT:
            mean = (line_x.view(torch.float32) * line_d.view(torch.float32)).abs()
            u = (_mix(_mix(key ^ 0x5BD1E995) + s * _GOLDEN) >> 8).float() * 2.0**-24
            pulses = torch.floor(torch.clamp(mean + u, max=LONGEST)).long()
        else:
            pulses = _count((line_x & line_d).long() & _SLOTS)
        down = (line_x ^ line_d) >= 0  # x d > 0: descend
        for i in range(int(pulses.max())):
            active = pulses > i
            step.pulse(active, down, key, count)
            count += active
        touched[0] |= (pulses > 0) & ~down
        touched[1] |= (pulses > 0) & down
    if pulsed_at is not None:
        for plane, hit in zip(step.planes, touched, strict=True):
            pulsed_at[plane].masked_fill_(hit, now)


def _count(word: Tensor) -> Tensor:
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    return ((word * 0x01010101) & _MASK) >> 24


def _mix(x: Tensor) -> Tensor:
    """A 32-bit hash without visible structure (Wellons' lowbias32); int64 tensors hold the words."""
    x = x & _MASK
    x = x ^ (x >> 16)
    x = _times(x, 0x21F0AAAD)
    x = x ^ (x >> 15)
    x = _times(x, 0x735A2D97)
    return x ^ (x >> 15)


def _times(x: Tensor, factor: int) -> Tensor:
    return (x * (factor & 0xFFFF) + (((x * (factor >> 16)) & 0xFFFF) << 16)) & _MASK


def stream_words(seed: int, offset: int) -> tuple[int, int]:
    """Two words that tell one update's noise from another's (splitmix64 of seed and offset)."""
    whole = (1 << 64) - 1
    z = (seed + offset * 0x9E3779B97F4A7C15) & whole
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & whole
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & whole
    z ^= z >> 31
    return z & _MASK, z >> 32


def _keys(weight: Tensor, seed: int, offset: int) -> Tensor:
    """A word for each weight; word ``i`` of its stream is the hash of ``key + i * golden ratio``."""
    low, high = stream_words(seed, offset)
    return _mix(_mix((weight & _MASK) + low) ^ high ^ (weight >> 32))


class _Stepper:
    """What one pulse does, for one family of devices."""

    def __init__(self, state: PulsedState, parameters: Tensor, law: StepLaw) -> None:
        self.conductance, self.history = state.conductance, state.history
        self.planes, self.family = law.planes, law.family
        self.steps = parameters.expand(4, *state.conductance.shape)
        self.noise, *self.coefficients = law.coefficients.tolist()

    def pulse(self, active: Tensor, down: Tensor, key: Tensor, n: Tensor) -> None:
        """Pulse ``n`` of every weight's stream; pulses 2k and 2k + 1 share words 2k and 2k + 1 of it."""
        first = n & ~1
        a, b = _mix(key + first * _GOLDEN), _mix(key + (first + 1) * _GOLDEN)
        xi = torch.where(n > first, *reversed(box_muller(a, b)))
        u = (torch.where(n > first, b, a) >> 8).float() * 2.0**-24
        up_plane, down_plane = self.planes
        one_sided = up_plane != down_plane
        for plane, here in ((up_plane, active & ~down), (down_plane, active & down)):
            downward = here & down & (not one_sided)
            g = self.conductance[plane]
            up_step, down_step, low, high = (p[plane] for p in self.steps)
            size = torch.where(downward, -down_step, up_step)
            change = self._change(g, plane, here, downward, low, high, xi, u)
            stepped = torch.minimum(torch.maximum(g + size * change, low), high)
            g.copy_(torch.where(here, stepped, g))

    def _change(
        self, g: Tensor, plane: int, here: Tensor, down: Tensor, low: Tensor, high: Tensor, xi: Tensor, u: Tensor
    ) -> Tensor:
        """The step in units of the device's step size, noise included; downward steps count as positive."""
        c = self.coefficients
        if self.family == TABLE:
            return self._jump((g - low) / (high - low), u, down)
        if self.family == HISTORY:
            assert self.history is not None
            kept, mean, spread = c[0], c[1:4], c[4:7]
            p = self.history[plane]
            p.copy_(torch.where(here, p * kept, p))
            return mean[0] * g + mean[1] + mean[2] * p + (spread[0] * g + spread[1] + spread[2] * p) * xi
        if self.family == LINEAR:
            slope_up, slope_down, reference = c
            part = torch.where(down, slope_down * (reference - g), slope_up * (g - reference))
            m = torch.clamp(1.0 - part / torch.where(down, reference - low, high - reference), min=0.0)
        elif self.family == EXPONENTIAL:
            a_up, gamma_up, a_down, gamma_down, scale, shift = c
            z = 2.0 * scale * g / (high - low) + shift
            m = 1.0 - torch.where(down, a_down * torch.exp(-gamma_down * z), a_up * torch.exp(gamma_up * z))
            m = torch.clamp(m, min=0.0)
        elif self.family == POWER:
            left = torch.where(down, g - low, high - g) / (high - low)
            m = torch.where(down, left ** c[1], left ** c[0])
        else:
            m = self._piecewise((g - low) / (high - low), down)
        return m * (1.0 + self.noise * xi)

    def _piecewise(self, at: Tensor, down: Tensor) -> Tensor:
        n = int(self.coefficients[0])
        tables = torch.tensor(self.coefficients[1:], dtype=at.dtype, device=at.device).view(2, n)
        left, f = _cell(at, n)
        side = down.long()
        return tables[side, left] * (1.0 - f) + tables[side, left + 1] * f

    def _jump(self, at: Tensor, u: Tensor, down: Tensor) -> Tensor:
        n_g, n_q = (int(n) for n in self.coefficients[:2])
        tables = torch.tensor(self.coefficients[2:], dtype=at.dtype, device=at.device).view(2, n_g, n_q)
        (row, f), (column, h) = _cell(at, n_g), _cell(u, n_q)
        side = down.long()
        lower, upper = (tables[side, r, column] * (1.0 - h) + tables[side, r, column + 1] * h for r in (row, row + 1))
        return lower * (1.0 - f) + upper * f


def _cell(at: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Where a position in [0, 1] lies among ``n`` even points: the point to its left, and the fraction beyond it."""
    scaled = at.clamp(0.0, 1.0) * (n - 1)
    left = scaled.long().clamp(max=n - 2)
    return left, scaled - left
