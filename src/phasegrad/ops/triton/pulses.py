"""The pulsed update: coincidences of trains and the steps of devices, as ``phasegrad.ops.pulses`` defines them.

A program holds the devices of a tile of weights in registers while it goes through all samples. The words of the two
lines of a weight tell how many pulses it receives and of which sign; a weight queues those signs in a word, and all
weights of the tile then work through their queues together, each at its own sample, because the pulses of a sample
rarely reach many weights of a tile. A pass through the queues applies two pulses, which share a pair of random words.
The queue only runs when a weight has no room left, so that most weights have work in each pass. When it runs does not
affect the result: the noise of a weight's pulse ``n`` is a hash of weight and ``n``.

A tile belongs to one warp: the loops end when all of its weights are done, which a warp agrees on in one instruction,
and more warps would need a barrier for. For each sample and weight there remain about ten integer operations, the count
of bits the slowest of them. From some 20 samples on they take longer than the 28 bytes of a weight whose device has
parameters of its own: large batches are bound by arithmetic, small ones by memory.

The strides of the tile are not told to the compiler: if it knew that rows are aligned it would load devices in vectors,
hold them in another layout than words, and exchange values between threads at every pulse.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from phasegrad.ops import pulses, reference, trains
from phasegrad.ops.arguments import PulsedState, StepLaw, TrackedWeight, TrainRule
from phasegrad.ops.triton import refusals
from phasegrad.ops.triton.launch import all_floats, launch
from phasegrad.ops.triton.philox import box_muller, unit
from phasegrad.ops.triton.steps import GOLDEN, HISTORY, TABLE, change, coefficients_of, keys, mix, rate_of
from phasegrad.ops.triton.trains import LONGEST, Lines

TILE = (8, 16)
"""Outputs and inputs of the weights that a program pulses: powers of two, the product at least 32."""
WORDS = 1 << 26
"""Words of trains that are in memory at a time, in whole blocks of samples."""

STREAMS: tl.constexpr = tl.constexpr(trains.STREAMS)


@triton.jit
def _step(active, queue, waiting, done, g, p, g_down, p_down, xi, u, up, down, c, tables, FAMILY: tl.constexpr,
          PAIR: tl.constexpr):  # fmt: skip
    """Apply the first queued pulse of the active weights."""
    downward = (queue & 1) != 0
    one = active.to(tl.int32)
    queue = queue >> one.to(tl.uint32)
    waiting -= one
    done += one.to(tl.uint32)
    other = downward & PAIR
    here = tl.where(other, g_down, g)
    past = tl.where(other, p_down, p)
    if FAMILY == HISTORY:
        past *= c[1]
    low = tl.where(other, down[1], up[1])
    high = tl.where(other, down[2], up[2])
    size = tl.where(downward, down[0], up[0])
    rate = tl.where(downward, down[3], up[3])
    part = change(here, past, low, high, rate, downward & (not PAIR), xi, u, c, tables, FAMILY)
    moved = tl.maximum(here + size * part, low, propagate_nan=tl.PropagateNan.ALL)
    moved = tl.minimum(moved, high, propagate_nan=tl.PropagateNan.ALL)
    first = active & ~other
    g = tl.where(first, moved, g)
    p = tl.where(first, past, p)
    if PAIR:
        g_down = tl.where(active & other, moved, g_down)
        p_down = tl.where(active & other, past, p_down)
    return queue, waiting, done, g, p, g_down, p_down


@triton.jit
def _two_steps(queue, waiting, done, g, p, g_down, p_down, key, up, down, c, tables, FAMILY: tl.constexpr,
               PAIR: tl.constexpr):  # fmt: skip
    """Apply up to two pulses per weight: those of one pair of random words."""
    odd = (done & 1) != 0
    draw = key + (done & 0xFFFFFFFE) * GOLDEN
    xi = tl.zeros_like(g)
    xi_2 = tl.zeros_like(g)
    u = tl.zeros_like(g)
    u_2 = tl.zeros_like(g)
    if FAMILY == TABLE:
        u = unit(mix(draw))
        u_2 = unit(mix(draw + GOLDEN))
    elif (FAMILY == HISTORY) | (c[0] != 0.0):
        xi, xi_2 = box_muller(mix(draw), mix(draw + GOLDEN))
    queue, waiting, done, g, p, g_down, p_down = _step(
        waiting > 0, queue, waiting, done, g, p, g_down, p_down, tl.where(odd, xi_2, xi), tl.where(odd, u_2, u),
        up, down, c, tables, FAMILY, PAIR,
    )  # fmt: skip
    return _step((waiting > 0) & ~odd, queue, waiting, done, g, p, g_down, p_down, xi_2, u_2, up, down, c, tables,
                 FAMILY, PAIR)  # fmt: skip


@triton.jit
def _population(word):
    """The number of set bits, one instruction where all bits of a word may be set."""
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    return (word * 0x01010101) >> 24


@triton.jit
def _coincidences(x, d, key, sample, MEAN: tl.constexpr):
    """The number of pulses of one sample."""
    if MEAN:
        mean = tl.abs(x.to(tl.float32, bitcast=True) * d.to(tl.float32, bitcast=True))
        drawn = unit(mix(mix(key ^ 0x5BD1E995) + sample * GOLDEN))
        number = tl.floor(tl.minimum(mean + drawn, LONGEST)).to(tl.int32)
    else:
        both = x & d
        number = (_population(both) - (both >> 31)).to(tl.int32)  # all bits but the sign
    return number


@triton.jit
def _words(words_x, words_d, row, line_x, line_d, features, per, has_x, has_d):
    """The words of one sample on the lines of a tile, inputs ``[1, in]`` and outputs ``[out, 1]``."""
    x = tl.load(words_x + row * features + line_x, mask=has_x, other=0)
    d = tl.load(words_d + row * per + line_d, mask=has_d, other=0)
    return x.to(tl.uint32, bitcast=True)[None, :], d.to(tl.uint32, bitcast=True)[:, None]


@triton.jit
def _device(conductance, history, parameters, at, total, inside, c, FAMILY: tl.constexpr, SHARED: tl.constexpr,
            DOWN: tl.constexpr):  # fmt: skip
    """A tile of devices: conductance, history, and step size, bounds and rate in one direction."""
    g = tl.load(conductance + at, mask=inside, other=0.0)
    p = tl.load(history + at, mask=inside, other=0.0) if FAMILY == HISTORY else tl.zeros_like(g)
    if SHARED:
        size = tl.load(parameters + DOWN) + tl.zeros_like(g)
        low = tl.load(parameters + 2) + tl.zeros_like(g)
        high = tl.load(parameters + 3) + tl.zeros_like(g)
    else:
        size = tl.load(parameters + DOWN * total + at, mask=inside, other=0.0)
        low = tl.load(parameters + 2 * total + at, mask=inside, other=-1.0)
        high = tl.load(parameters + 3 * total + at, mask=inside, other=1.0)
    return g, p, -size if DOWN else size, low, high, rate_of(low, high, c, FAMILY, DOWN)


@triton.jit
def _keep(conductance, history, pulsed_at, at, g, p, now, pulsed, FAMILY: tl.constexpr, STAMPED: tl.constexpr):
    tl.store(conductance + at, g, mask=pulsed)
    if FAMILY == HISTORY:
        tl.store(history + at, p, mask=pulsed)
    if STAMPED:
        tl.store(pulsed_at + at, tl.zeros_like(g).to(tl.float64) + now, mask=pulsed)


@triton.jit
def _follow(weight, conductance, other_planes, factors, at, count, g, g_down, inside, UP: tl.constexpr,
            DOWN: tl.constexpr, PLANES: tl.constexpr, OTHERS: tl.constexpr):  # fmt: skip
    """Store the weight that the devices represent, products rounded before they are added."""
    total = tl.zeros_like(g)
    for plane in tl.static_range(PLANES):
        if plane == UP:
            value = g
        elif plane == DOWN:
            value = g_down
        else:
            value = tl.load(conductance + plane * count + at, mask=inside, other=0.0)
        total = value * factors[1 + plane] if plane == 0 else total + value * factors[1 + plane]
    for plane in tl.static_range(OTHERS):
        total += tl.load(other_planes + plane * count + at, mask=inside, other=0.0) * factors[1 + PLANES + plane]
    tl.store(weight + at, total + factors[0], mask=inside)


@triton.jit(do_not_specialize=["first", "batch", "offset", "features"])
def _update(
    conductance, history, pulsed_at, weight, other_planes, factors, parameters, coefficients, words_x, words_d, counts,
    refused, seed, now: tl.float64, first, batch, offset, out, features, groups,
    UP: tl.constexpr, DOWN: tl.constexpr, PLANES: tl.constexpr, OTHERS: tl.constexpr, FAMILY: tl.constexpr,
    SHARED: tl.constexpr, MEAN: tl.constexpr, COUNTED: tl.constexpr, STAMPED: tl.constexpr, TRACKED: tl.constexpr,
    OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, PER_BLOCK: tl.constexpr,
):  # fmt: skip
    """Pulse a tile of weights of one group, by ``batch`` samples from ``first`` on or by given counts."""
    per = out // groups
    across = tl.cdiv(features, INPUTS)
    tiles = tl.cdiv(per, OUTPUTS) * across
    program = tl.program_id(0)
    group = program // tiles
    line_d = program % tiles // across * OUTPUTS + tl.arange(0, OUTPUTS)
    line_x = program % across * INPUTS + tl.arange(0, INPUTS)
    has_d = line_d < tl.where(tl.load(refused) == 0, per, 0)  # a refused update leaves everything as it is
    has_x = line_x < features
    inside = has_d[:, None] & has_x[None, :]
    count = tl.cast(out, tl.int64) * features
    at = (group * per + line_d).to(tl.int64)[:, None] * features + line_x[None, :]

    c = coefficients_of(coefficients, FAMILY)
    PAIR: tl.constexpr = UP != DOWN
    g, p, size, low, high, rate = _device(
        conductance, history, parameters, UP * count + at, PLANES * count, inside, c, FAMILY, SHARED, False
    )
    up = (size, low, high, rate)
    # The second device of a pair only grows too; a single one steps down by a law of its own.
    g_down, p_down, size, low, high, rate = _device(
        conductance, history, parameters, DOWN * count + at, PLANES * count, inside, c, FAMILY, SHARED, not PAIR
    )
    down = (size, low, high, rate)
    seed_value = tl.load(seed)
    queue = tl.zeros((OUTPUTS, INPUTS), tl.uint32)
    waiting = tl.zeros((OUTPUTS, INPUTS), tl.int32)
    done = tl.zeros((OUTPUTS, INPUTS), tl.uint32)
    grown = tl.zeros((OUTPUTS, INPUTS), tl.int32)
    shrunk = tl.zeros((OUTPUTS, INPUTS), tl.int32)

    if COUNTED:
        key = keys(at, seed_value, offset)
        left = tl.load(counts + at, mask=inside, other=0)
        grown = (left > 0).to(tl.int32)
        shrunk = (left < 0).to(tl.int32)
        signs = tl.where(left < 0, 0xFFFFFFFF, 0).to(tl.uint32)
        left = tl.abs(left)
        while tl.max(left) > 0:
            waiting = tl.minimum(left, 32)
            left -= waiting
            queue = signs
            while tl.max(waiting) > 0:
                queue, waiting, done, g, p, g_down, p_down = _two_steps(
                    queue, waiting, done, g, p, g_down, p_down, key, up, down, c, coefficients, FAMILY, PAIR
                )
    else:
        end = tl.cast(first, tl.int64) + batch
        block = tl.cast(first, tl.int64) // PER_BLOCK
        while block * PER_BLOCK < end:
            key = keys(at, seed_value, offset + block * (STREAMS + 1) + STREAMS)
            begin = block * PER_BLOCK
            sample = begin + (group + groups - begin % groups) % groups
            last = tl.minimum(end, begin + PER_BLOCK)
            x, d = _words(
                words_x, words_d, tl.minimum(sample, end - 1) - first, line_x, line_d, features, per, has_x, has_d
            )
            while sample < last:
                # Those of the next sample, so that the load and the arithmetic of a warp overlap.
                row = tl.minimum(sample + groups, end - 1) - first
                next_x, next_d = _words(words_x, words_d, row, line_x, line_d, features, per, has_x, has_d)
                number = _coincidences(x, d, key, (sample - begin).to(tl.uint32), MEAN)
                downward = ((x ^ d) >> 31) == 0  # x d > 0: descend
                while tl.max(waiting + number) > 31:
                    queue, waiting, done, g, p, g_down, p_down = _two_steps(
                        queue, waiting, done, g, p, g_down, p_down, key, up, down, c, coefficients, FAMILY, PAIR
                    )
                signs = (tl.full((OUTPUTS, INPUTS), 1, tl.uint32) << number.to(tl.uint32)) - 1
                queue |= tl.where(downward, signs, 0).to(tl.uint32) << waiting.to(tl.uint32)
                waiting += number
                grown |= tl.where(downward, 0, number)
                shrunk |= tl.where(downward, number, 0)
                sample += groups
                x = next_x
                d = next_d
            while tl.max(waiting) > 0:
                queue, waiting, done, g, p, g_down, p_down = _two_steps(
                    queue, waiting, done, g, p, g_down, p_down, key, up, down, c, coefficients, FAMILY, PAIR
                )
            done = tl.zeros((OUTPUTS, INPUTS), tl.uint32)
            block += 1

    pulsed = (grown if PAIR else grown | shrunk) != 0
    _keep(conductance, history, pulsed_at, UP * count + at, g, p, now, pulsed, FAMILY, STAMPED)
    if PAIR:
        _keep(conductance, history, pulsed_at, DOWN * count + at, g_down, p_down, now, shrunk != 0, FAMILY, STAMPED)
    if TRACKED:
        _follow(weight, conductance, other_planes, factors, at, count, g, g_down if PAIR else g, inside, UP, DOWN,
                PLANES, OTHERS)  # fmt: skip


def _pulse(
    state: PulsedState, tracked: TrackedWeight, parameters: Tensor, sent: tuple[Any, ...], now: float, law: StepLaw,
    groups: int, **constants: bool,
) -> None:  # fmt: skip
    conductance, (planes, family, coefficients) = state.conductance, law
    count, out, features = conductance.shape
    tiles = groups * triton.cdiv(out // groups, TILE[0]) * triton.cdiv(features, TILE[1])
    launch(
        _update, (tiles,), *state, tracked.weight, tracked.other_planes, tuple(map(float, tracked.factors)),
        parameters.contiguous(), coefficients.contiguous(), *sent[:5], now, *sent[5:], out, features, groups,
        like=conductance, UP=planes[0], DOWN=planes[1], PLANES=count,
        OTHERS=0 if tracked.other_planes is None else len(tracked.other_planes), FAMILY=family,
        SHARED=parameters[0].numel() == 1, STAMPED=state.pulsed_at is not None, **constants, OUTPUTS=TILE[0],
        INPUTS=TILE[1], PER_BLOCK=pulses.SAMPLES_PER_BLOCK, num_warps=1,
    )  # fmt: skip


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
    if not all_floats(state.conductance, x, d):
        reference.pulsed_update(state, tracked, parameters, x, d, rule, now, law, seed, offset)
        return
    refusals.check_tables(law)
    refused = refusals.start(x.device)
    lines = Lines(x.contiguous(), d.contiguous(), rule, refused)
    refusals.finish(refused, refusals.not_finite)
    groups = state.conductance.shape[1] // d.shape[1]
    blocks = max(WORDS // ((x.shape[1] + d.shape[1]) * pulses.SAMPLES_PER_BLOCK), 1)
    most = blocks * pulses.SAMPLES_PER_BLOCK
    for first in range(0, max(len(x), 1), most):
        batch = min(most, len(x) - first)
        words = lines.words(seed, offset, first, batch, pulses.SAMPLES_PER_BLOCK, trains.STREAMS + 1, groups)
        sent = (*words, None, refused, seed, first, batch, offset)
        tracks = tracked.weight is not None and first + batch == len(x)
        _pulse(
            state, tracked, parameters, sent, now, law, groups, MEAN=rule.kind == trains.MEAN_COUNT, COUNTED=False,
            TRACKED=tracks,
        )  # fmt: skip


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
    if not all_floats(state.conductance):
        reference.pulse_counts(state, tracked, parameters, counts, now, law, seed, offset)
        return
    refusals.check_tables(law)
    counts = counts.contiguous()
    refused = refusals.start(counts.device)
    limit = refusals.largest_count(parameters, law)
    grid = (triton.cdiv(counts.numel(), 1024),)
    launch(_excess, grid, refused, counts, counts.numel(), limit, like=counts, BLOCK=1024)
    refusals.finish(refused, pulses.too_many)
    sent = (None, None, counts, refused, seed, 0, 0, offset)
    _pulse(state, tracked, parameters, sent, now, law, 1, MEAN=False, COUNTED=True, TRACKED=tracked.weight is not None)


@triton.jit
def _excess(refused, counts, number, limit_at, BLOCK: tl.constexpr):
    """Note the largest count and the limit, if it is above."""
    limit = tl.load(limit_at)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    largest = tl.max(tl.abs(tl.load(counts + at, mask=at < number, other=0).to(tl.int64)))
    if largest > limit:
        tl.atomic_max(refused, largest)
        tl.store(refused + 1, limit)
