"""The pulsed update in plain torch: coincidences of trains, and how a device steps.

This file is the definition. The C++ kernel gives the same coincidences to the bit, and the same state to float
rounding.

Samples act one after another, and so do the pulses of one sample: every pulse sees the state that the one before it
left. The trains are those of ``phasegrad.ops.trains``, the step laws those of ``phasegrad.devices``.

References:
    Gokmen and Vlasov, "Acceleration of deep neural network training with resistive cross-point devices: design
    considerations", Front. Neurosci. 10:333 (2016), doi:10.3389/fnins.2016.00333.
    Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, doi:10.1145/2660193.2660195:
    splitmix64.
    Wellons, "Prospecting for hash functions" (2018), https://nullprogram.com/blog/2018/07/31/: lowbias32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from phasegrad.ops.arguments import PulsedState, StepLaw, TrackedWeight, TrainRule
from phasegrad.ops.philox import box_muller
from phasegrad.ops.trains import LONGEST, MEAN_COUNT, SLOTS, STREAMS, check_finite, pulse_trains
from phasegrad.ops.weighted_sum import weighted_sum

LINEAR, EXPONENTIAL, POWER, PIECEWISE, TABLE, HISTORY = 0, 1, 2, 3, 4, 5

CROSSINGS = 10
"""Number of times that the counted pulses of one update may cross the window of a nominal device."""

_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9


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
        tracked: the weight that the devices represent, updated with them.
        parameters: step up, step down, lowest and highest conductance of each device, ``[4, planes, out, in]``, or
            ``[4, 1, 1, 1]`` for all.
        x: inputs ``[batch, in]``.
        d: gradients of the outputs ``[batch, out]``; or of the outputs that a sample drives, ``[batch, out / groups]``:
            sample ``i`` drives the outputs of group ``i modulo groups`` alone.
        rule: how ``x`` and ``d`` become trains.
        now: time to note in ``pulsed_at``.
        law: which devices are pulsed, and how a pulse changes them.
        seed: of all draws.
        offset: first of the streams that the op uses, ``STREAMS + 1`` for every ``SAMPLES_PER_BLOCK`` samples.
    """
    check_finite(x, d)
    check_tables(law)
    step = _Stepper(state, parameters, law)
    shape = state.conductance.shape[1:]
    index = torch.arange(shape.numel(), dtype=torch.int64, device=x.device).view(shape)
    groups = shape[0] // d.shape[1]
    for block, (some_x, some_d, streams) in enumerate(blocks(x, d, offset)):
        if groups > 1:
            some_d = of_all_groups(some_d, groups, block * SAMPLES_PER_BLOCK)
        words = pulse_trains(some_x, some_d, rule, seed, streams)
        key = _keys(index, int(seed), streams + STREAMS)
        _pulse_samples(step, words, key, rule.kind, state.pulsed_at, now)
    if tracked.weight is not None:
        tracked.weight.copy_(weighted_sum(state.conductance, *tracked[1:], (), seed, offset))


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
    """Apply a given number of pulses per weight, in place.

    ``counts`` is int32 ``[out, in]``: above 0 the weight grows, below it shrinks. ``offset`` is that of the one stream
    that the op uses; the other arguments are those of ``pulsed_update``.
    """
    check_tables(law)
    check_counts(counts, parameters, law)
    step = _Stepper(state, parameters, law)
    index = torch.arange(counts.numel(), dtype=torch.int64, device=counts.device).view(counts.shape)
    key = _keys(index, int(seed), offset)
    for i in range(int(counts.abs().max()) if counts.numel() else 0):
        step.pulse(counts.abs() > i, counts < 0, key, torch.full_like(key, i))
    if state.pulsed_at is not None:
        for plane, hit in zip(law.planes, (counts > 0, counts < 0), strict=True):
            state.pulsed_at[plane].masked_fill_(hit, now)
    if tracked.weight is not None:
        tracked.weight.copy_(weighted_sum(state.conductance, *tracked[1:], (), seed, offset))


SAMPLES_PER_BLOCK = 1024
"""Samples whose trains are in memory at a time."""


def blocks(x: Tensor, d: Tensor, offset: int) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Inputs and gradients of at most ``SAMPLES_PER_BLOCK`` samples, and the first of their streams."""
    for i, (some_x, some_d) in enumerate(zip(x.split(SAMPLES_PER_BLOCK), d.split(SAMPLES_PER_BLOCK), strict=True)):
        yield some_x, some_d, offset + i * (STREAMS + 1)


def of_all_groups(d: Tensor, groups: int, first: int = 0) -> Tensor:
    """Gradients ``[batch, out / groups]`` of samples ``first``, ... as ``[batch, out]``, 0 outside of their group."""
    index = torch.arange(first, first + len(d), device=d.device)
    whole = d.new_zeros(len(d), groups, d.shape[1])
    whole[index - first, index % groups] = d
    return whole.flatten(1)


def check_tables(law: StepLaw) -> None:
    """Raise if a table is shorter than its header states; a kernel would read past its end."""
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


_COMMON = 64
"""Counts up to which ``check_counts`` does not look at the devices."""
_SLACK = 10
"""Drawn devices have other windows and steps than nominal ones, to which callers apply ``CROSSINGS``."""
_LARGEST_COUNT = 1 << 26
"""The most pulses to devices that no pulse changes."""


def check_counts(counts: Tensor, parameters: Tensor, law: StepLaw) -> None:
    """Raise if a count is far above what crosses the window of the devices, which would take practically forever."""
    if not counts.numel():
        return
    low, high = (int(c) for c in counts.aminmax())
    largest = max(-low, high)
    if largest <= _COMMON:
        return
    limit = int(largest_count(parameters, law))
    if largest > limit:
        raise ValueError(too_many(largest, limit))


def too_many(largest: int, limit: int) -> str:
    """The message about a count above the limit."""
    return (
        f"pulse_counts: a device would receive {largest} pulses, but at most {limit} are sent at once, many times "
        "those that cross its conductance window; no device was pulsed. Lower the counts"
    )


def largest_count(parameters: Tensor, law: StepLaw) -> Tensor:
    """The most pulses that a device may receive at once, an int64 scalar on the device."""
    pulsed = parameters[:, sorted(set(law.planes))] if parameters[0].numel() > 1 else parameters
    up, _, bottom, top = pulsed.unbind()
    step, window = up.mean(dtype=torch.float64), (top - bottom).mean(dtype=torch.float64)
    crossings = torch.where(step > 0.0, window / step, torch.full_like(step, math.inf))  # infinite: nothing changes
    return (_SLACK * CROSSINGS * crossings).clamp(_COMMON, _LARGEST_COUNT).long()


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
            pulses = _count((line_x & line_d).long() & SLOTS)
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
    """Two words that distinguish the noise of different updates (splitmix64 of seed and offset)."""
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
    """Applies one pulse to devices of one family."""

    def __init__(self, state: PulsedState, parameters: Tensor, law: StepLaw) -> None:
        self.conductance, self.history = state.conductance, state.history
        self.planes, self.family = law.planes, law.family
        self.steps = parameters.expand(4, *state.conductance.shape)
        self.noise, *self.coefficients = law.coefficients.tolist()

    def pulse(self, active: Tensor, down: Tensor, key: Tensor, n: Tensor) -> None:
        """Pulse ``n`` of every weight's stream; pulses 2k and 2k + 1 share the words 2k and 2k + 1."""
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
            kept, mean, sd = c[0], c[1:4], c[4:7]
            p = self.history[plane]
            p.copy_(torch.where(here, p * kept, p))
            return mean[0] * g + mean[1] + mean[2] * p + (sd[0] * g + sd[1] + sd[2] * p) * xi
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
    """Where a position in [0, 1] is among ``n`` equidistant points: the point to its left, and the fraction beyond."""
    scaled = at.clamp(0.0, 1.0) * (n - 1)
    left = scaled.long().clamp(max=n - 2)
    return left, scaled - left
