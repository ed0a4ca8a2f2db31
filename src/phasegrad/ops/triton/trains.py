"""Trains of pulses on word and bit lines, as ``phasegrad.ops.trains`` defines them: the same words to the bit.

Firing probabilities are computed in double, as in the definition, since a probability that is rounded otherwise would
fire in other slots. There are ``batch (in + out)`` of them, few next to the ``batch in out`` pairs of lines.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from phasegrad.ops import reference, trains
from phasegrad.ops.arguments import TrainRule
from phasegrad.ops.triton import refusals
from phasegrad.ops.triton.launch import all_floats, launch
from phasegrad.ops.triton.philox import words

DETERMINISTIC: tl.constexpr = tl.constexpr(trains.DETERMINISTIC)
MEAN_COUNT: tl.constexpr = tl.constexpr(trains.MEAN_COUNT)
LONGEST: tl.constexpr = tl.constexpr(trains.LONGEST)
SHORT: tl.constexpr = tl.constexpr(trains.SHORT)
SLOTS: tl.constexpr = tl.constexpr(trains.SLOTS)
SIGN: tl.constexpr = tl.constexpr(1 << 31)

BLOCK = 256
"""Lines that a program converts, and values whose maximum it takes at a time."""


@triton.jit
def _largest(v, count, refused, BLOCK: tl.constexpr):
    """The largest magnitude of one sample's values, in double; notes values that are not finite."""
    index = tl.arange(0, BLOCK)
    largest = tl.zeros((BLOCK,), tl.float32)
    wrong = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, count, BLOCK):
        size = tl.abs(tl.load(v + first + index, mask=index < count - first, other=0.0))
        wrong |= (~(size < float("inf"))).to(tl.int32)
        largest = tl.maximum(largest, size)
    if tl.max(wrong) != 0:
        tl.store(refused, 1)
    return tl.max(largest).to(tl.float64)


@triton.jit(do_not_specialize=["batch", "length"])
def _lines(
    amplitudes, slots, refused, x, d, lr: tl.float64, dw_min: tl.float64, batch, features, out, length,
    BL_MANAGEMENT: tl.constexpr, UPDATE_MANAGEMENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """How the values of one sample become trains: probabilities over magnitudes, on inputs and outputs, and slots."""
    sample = tl.program_id(0).to(tl.int64)
    largest_x = _largest(x + sample * features, features, refused, BLOCK)
    largest_d = _largest(d + sample * out, out, refused, BLOCK)
    k = lr * largest_x * largest_d / dw_min
    most = length.to(tl.float64)
    number = tl.minimum(tl.ceil(k), most) if BL_MANAGEMENT else most
    on = (k > 0.0) & (k < float("inf"))
    a = tl.sqrt(lr / (dw_min * tl.where(on, number, 1.0)))
    b = a
    if UPDATE_MANAGEMENT:
        some = tl.where(on, k, 1.0)
        saturated = tl.where(k > most, largest_d * (most / some), largest_d)
        ratio = tl.where(on, largest_x / tl.where(on, saturated, 1.0), 1.0)
        b = a * tl.sqrt(1.0 / ratio)
        a = a * tl.sqrt(ratio)
    tl.store(amplitudes + sample, tl.where(on, b, 0.0))
    tl.store(amplitudes + batch + sample, tl.where(on, a, 0.0))
    tl.store(slots + sample, tl.where(on, number, 0.0).to(tl.int32))


@triton.jit
def _fire(p, slots, element, seed, offset):
    """Words in which each of the slots is set with probability ``p``.

    The random numbers of all slots are compared with it bit by bit from the top, until all slots are decided; trains of
    few slots compare a word for each.
    """
    below = tl.floor(p * 2147483648.0).to(tl.int64).to(tl.uint32)
    full = _first(tl.zeros_like(below) + slots.to(tl.uint32))
    brief = slots <= SHORT
    surely = below >= SIGN
    fired = tl.where(surely, full, 0).to(tl.uint32)
    undecided = tl.where(surely | brief, 0, full).to(tl.uint32)
    w0, w1, w2, w3 = words(seed, offset, element)
    short = ((w0 >> 1) < below).to(tl.uint32)
    short |= ((w1 >> 1) < below).to(tl.uint32) << 1
    short |= ((w2 >> 1) < below).to(tl.uint32) << 2
    short |= ((w3 >> 1) < below).to(tl.uint32) << 3
    fired, undecided = _compare(fired, undecided, w0, below, 30)
    fired, undecided = _compare(fired, undecided, w1, below, 29)
    fired, undecided = _compare(fired, undecided, w2, below, 28)
    fired, undecided = _compare(fired, undecided, w3, below, 27)
    at = 4
    while (at < LONGEST) & (tl.max((undecided != 0).to(tl.int32)) != 0):
        w0, w1, w2, w3 = words(seed, offset + at // 4, element)
        fired, undecided = _compare(fired, undecided, w0, below, 30 - at)
        fired, undecided = _compare(fired, undecided, w1, below, 29 - at)
        fired, undecided = _compare(fired, undecided, w2, below, 28 - at)
        if at + 3 < LONGEST:
            fired, undecided = _compare(fired, undecided, w3, below, 27 - at)
        at += 4
    return tl.where(brief, short & full, fired)


@triton.jit
def _first(n):
    """A word whose first ``n`` slots are set; ``n`` is uint32, at most 31."""
    return ((tl.zeros_like(n) + 1) << n) - 1


@triton.jit
def _compare(fired, undecided, word, below, at):
    """Decide the slots whose number differs from ``below`` in bit ``at``."""
    bit = tl.where(((below >> at) & 1) != 0, SLOTS, 0).to(tl.uint32)
    return fired | (undecided & ~word & bit), undecided & ~(word ^ bit)


@triton.jit
def _evenly(n, slots):
    """``n`` of the slots, evenly spaced."""
    word = tl.zeros_like(n).to(tl.uint32)
    length = tl.maximum(slots, 1)
    for t in range(LONGEST):
        before = (2 * t * n + length) // (2 * length)
        after = (2 * t * n + 2 * n + length) // (2 * length)
        word |= ((after > before) & (slots > t)).to(tl.uint32) << t
    return word


@triton.jit(do_not_specialize=["first", "per_block", "streams", "offset"])
def _words(
    to, values, amplitudes, slots, seed_at, first, lines, groups, per_block, streams, offset,
    OUTPUT: tl.constexpr, KIND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The trains of some lines of one sample; samples are numbered within blocks, which have their own streams."""
    row = tl.program_id(0).to(tl.int64)
    sample = first + row
    line = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = line < lines
    value = tl.load(values + sample * lines + line, mask=inside, other=0.0)
    number = tl.load(slots + sample)
    p = tl.minimum(tl.abs(value).to(tl.float64) * tl.load(amplitudes + sample), 1.0)
    if KIND == MEAN_COUNT:
        mean = p * number.to(tl.float64) if OUTPUT else p
        word = mean.to(tl.float32).to(tl.uint32, bitcast=True)
    elif KIND == DETERMINISTIC:
        n = tl.floor(number.to(tl.float64) * p + 0.5).to(tl.int32)
        word = _evenly(n, number) if OUTPUT else _first(n.to(tl.uint32))
    else:
        element = (sample % per_block * groups + sample % groups) * lines + line
        stream = offset + sample // per_block * streams
        word = _fire(p, number, element, tl.load(seed_at), stream)
    word |= tl.where(value < 0.0, SIGN, 0).to(tl.uint32)
    tl.store(to + row * lines + line, word.to(tl.int32, bitcast=True), mask=inside)


class Lines:
    """How the samples of a batch become trains, on the device.

    Args:
        x: inputs ``[batch, in]``, contiguous.
        d: gradients ``[batch, out]``, contiguous.
        rule: how values become trains.
        refused: int64, of which the first is set to 1 if a value is not finite.
    """

    def __init__(self, x: Tensor, d: Tensor, rule: TrainRule, refused: Tensor) -> None:
        self.x, self.d, self.rule = x, d, rule
        self.amplitudes = torch.empty((2, len(x)), dtype=torch.float64, device=x.device)
        self.slots = torch.empty(len(x), dtype=torch.int32, device=x.device)
        launch(
            _lines, (len(x),), self.amplitudes, self.slots, refused, x, d, rule.lr, rule.dw_min, len(x), x.shape[1],
            d.shape[1], rule.length, like=x, BL_MANAGEMENT=rule.bl_management,
            UPDATE_MANAGEMENT=rule.update_management, BLOCK=BLOCK,
        )  # fmt: skip

    def words(
        self, seed: Tensor, offset: int, first: int, count: int, per_block: int, streams: int, groups: int
    ) -> tuple[Tensor, Tensor]:
        """Trains of ``count`` samples from ``first`` on.

        Samples are in blocks of ``per_block``, each ``streams`` offsets after the one before. Sample ``i`` has the
        gradients of group ``i modulo groups``, and the words that they have among the lines of all groups.
        """
        sides = []
        for output, values in enumerate((self.x, self.d)):
            to = torch.empty((count, values.shape[1]), dtype=torch.int32, device=values.device)
            launch(
                _words, (count, triton.cdiv(values.shape[1], BLOCK)), to, values, self.amplitudes[output], self.slots,
                seed, first, values.shape[1], groups if output else 1, per_block, streams, offset + 8 * output,
                like=values, OUTPUT=bool(output), KIND=self.rule.kind, BLOCK=BLOCK,
            )  # fmt: skip
            sides.append(to)
        return sides[0], sides[1]


def pulse_trains(x: Tensor, d: Tensor, rule: TrainRule, seed: Tensor, offset: int) -> tuple[Tensor, Tensor]:
    if not all_floats(x, d):
        return reference.pulse_trains(x, d, rule, seed, offset)
    refused = refusals.start(x.device)
    lines = Lines(x.contiguous(), d.contiguous(), rule, refused)
    refusals.finish(refused, refusals.not_finite)
    return lines.words(seed, offset, 0, len(x), max(len(x), 1), 0, 1)
