"""How a weight is split over the pairs of a cell: the targets of every device as a function of the weight."""

from __future__ import annotations

import functools
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from phasegrad.configuration import Configuration, check_number
from phasegrad.devices import Device
from phasegrad.ops.direct import readable

_MOST_PAIRS = 8
"""Largest number of pairs whose combinations ``FullOrPartial`` searches."""


def pair_targets(weight: Tensor, device: Device) -> Tensor:
    """Store a positive weight on the first device and a negative one on the second; the other is at RESET."""
    if not readable(weight) or (weight.requires_grad and torch.is_grad_enabled()):
        return device.in_window(torch.stack((weight.clamp(min=0.0), (-weight).clamp(min=0.0))))
    planes = weight.new_empty(2, *weight.shape)  # the same numbers, without the memory of what is stacked
    torch.clamp(weight.detach(), min=0.0, out=planes[0])
    torch.neg(weight.detach(), out=planes[1])
    planes[1].clamp_(min=0.0)
    return device.in_window(planes)


class Pieces(NamedTuple):
    """A function of the magnitude of a weight that is linear in each of several pieces."""

    starts: tuple[float, ...]
    """Magnitude at which each piece starts, in increasing order from 0; the last piece ends at 1."""
    first: tuple[tuple[float, ...], ...]
    """Fraction of the window of each device where a piece starts, ``[pieces][devices]``, for positive weights."""
    last: tuple[tuple[float, ...], ...]
    """Fractions where it ends."""


@dataclass(frozen=True, kw_only=True)
class Split(Configuration, ABC):
    """Targets of the devices of [`SignificancePairs`][phasegrad.cells.SignificancePairs] as functions of the weight.

    Targets are linear in the magnitude of the weight, piece by piece; a negative weight exchanges the devices of each
    pair.
    """

    def check(self, significances: tuple[float, ...]) -> None:
        """Raise ``ValueError`` if the split does not fit pairs of these significances."""

    @property
    def full_weight(self) -> float:
        """The weight that a cell represents whose positive devices are all fully SET and whose others are RESET."""
        return 1.0

    @abstractmethod
    def pieces(self, significances: tuple[float, ...]) -> Pieces:
        """The fractions of the window that devices of pairs with these significances are programmed to."""

    def fractions(self, weight: Tensor, significances: tuple[float, ...]) -> Tensor:
        """Fractions of the window ``[devices, *shape]`` of weights in [-1, 1]; weights beyond are clipped."""
        pieces, magnitude = self.pieces(significances), weight.abs().clamp(max=1.0)
        starts = magnitude.new_tensor(pieces.starts)
        length = magnitude.new_tensor([b - a for a, b in itertools.pairwise((*pieces.starts, 1.0))])
        piece = torch.bucketize(magnitude.detach(), starts, right=True).sub_(1).clamp_(0, len(starts) - 1)
        along = (magnitude - starts[piece]) / length[piece]
        first, last = (magnitude.new_tensor(rows).t()[:, piece] for rows in pieces[1:])
        positive = torch.lerp(first, last, along).clamp(0.0, 1.0).unflatten(0, (-1, 2))
        return torch.where(weight < 0.0, positive.flip(1), positive).flatten(0, 1)

    def targets(self, weight: Tensor, significances: tuple[float, ...], device: Device) -> Tensor:
        """Target conductances ``[devices, *shape]`` [S] of weights in [-1, 1]."""
        return device.in_window(self.fractions(weight, significances))


@final
@dataclass(frozen=True, kw_only=True)
class EqualSplit(Split):
    """All pairs at the same fraction of the window, so that the independent errors of devices average.

    Examples:
        >>> EqualSplit().fractions(torch.tensor([0.5, -1.0]), (2.0, 1.0))
        tensor([[0.5000, 0.0000],
                [0.0000, 1.0000],
                [0.5000, 0.0000],
                [0.0000, 1.0000]])
    """

    def pieces(self, significances: tuple[float, ...]) -> Pieces:
        """One piece, from RESET to full SET of the positive device of each pair."""
        pairs = len(significances)
        return Pieces((0.0,), ((0.0,) * (2 * pairs),), ((1.0, 0.0) * pairs,))

    def targets(self, weight: Tensor, significances: tuple[float, ...], device: Device) -> Tensor:
        """Target conductances ``[devices, *shape]`` [S]; a gradient passes."""
        return pair_targets(weight, device).repeat(len(significances), *[1] * weight.dim())


@final
@dataclass(frozen=True, kw_only=True)
class MostSignificantFirst(Split):
    """The most significant pair is used up to full SET, then the next; pairs of the same significance in their order.

    Examples:
        >>> MostSignificantFirst().fractions(torch.tensor([1 / 3, 1.0]), (1.0, 2.0))
        tensor([[0.0000, 1.0000],
                [0.0000, 0.0000],
                [0.5000, 1.0000],
                [0.0000, 0.0000]])
    """

    def pieces(self, significances: tuple[float, ...]) -> Pieces:
        """One piece per pair."""
        order = sorted(range(len(significances)), key=lambda k: -significances[k])
        return _pieces_of([(pair, frozenset(order[:i])) for i, pair in enumerate(order)], significances)


@final
@dataclass(frozen=True, kw_only=True)
class FullOrPartial(Split):
    """All devices at full SET or RESET, except for at most one.

    The partial device has the least significance with which the weight can be represented, so that its error counts
    little; among equals, as few devices as possible are SET. With equal significances this is the filling of one device
    after the other of the reference.

    References:
        Vasilopoulos, A. et al. Exploiting the state dependency of conductance variations in memristive devices for
        accurate in-memory computing. IEEE Trans. Electron Devices 70, 6279 (2023).
        https://doi.org/10.1109/TED.2023.3321014

    Examples:
        >>> FullOrPartial().fractions(torch.tensor([1 / 6, 0.5, 5 / 6]), (2.0, 1.0))  # 0.5, 1.5 and 2.5 of 3
        tensor([[0.0000, 0.7500, 1.0000],
                [0.0000, 0.0000, 0.0000],
                [0.5000, 0.0000, 0.5000],
                [0.0000, 0.0000, 0.0000]])
    """

    def check(self, significances: tuple[float, ...]) -> None:
        """Raise ``ValueError`` for so many pairs that their combinations cannot be searched."""
        if len(significances) > _MOST_PAIRS:
            raise ValueError(
                f"FullOrPartial: {len(significances)} pairs; all combinations are searched, so give at most "
                f"{_MOST_PAIRS} significances, or use MostSignificantFirst"
            )

    def pieces(self, significances: tuple[float, ...]) -> Pieces:
        """One piece for each combination of full devices and a partial one that is in use."""
        return _pieces_of(_full_and_partial(significances), significances)


@final
@dataclass(frozen=True, kw_only=True)
class SplitTable(Split):
    """Targets of every device at several weights, with straight lines between them.

    [`optimise_split`][phasegrad.inference.optimise_split] finds such tables. Its targets may differ from what the
    weight is in exact devices, to make up for what drift and clipping at RESET do to the mean.

    Args:
        weights: magnitudes in increasing order, from 0 to 1.
        device_fractions: for each device of the cell (in its order: positive and negative device of each pair) the
            fraction of the window, 0 to 1, at each of these positive weights. At a weight of 0 both devices of a pair
            are equal, since a negative weight exchanges them.
        full_weight: the weight that a cell represents whose positive devices are all fully SET; above 1, the largest
            weights need not use all of the window; below, they are clipped, and smaller ones use more of it.

    Raises:
        ValueError: the weights do not increase from 0 to 1, or a target is outside of the window.

    References:
        Mackin, C. et al. Optimised weight programming for analogue memory-based deep neural networks. Nat. Commun. 13,
        3765 (2022). https://doi.org/10.1038/s41467-022-31405-1

    Examples:
        >>> split = SplitTable(weights=(0.0, 0.5, 1.0), device_fractions=((0.0, 0.8, 1.0), (0.0, 0.0, 0.0)))
        >>> split.fractions(torch.tensor([0.25, -0.75]), (1.0,))
        tensor([[0.4000, 0.0000],
                [0.0000, 0.9000]])
    """

    weights: tuple[float, ...]
    device_fractions: tuple[tuple[float, ...], ...]
    full_weight: float = 1.0  # type: ignore[assignment]  # a field in place of the property

    def __post_init__(self) -> None:
        check_number(self, "full_weight", 0.0, above=True)
        w = self.weights
        if len(w) < 2 or w[0] != 0.0 or w[-1] != 1.0 or not all(a < b for a, b in itertools.pairwise(w)):
            raise ValueError(f"SplitTable: weights = {w}; they must increase from 0 to 1")
        if not self.device_fractions or len(self.device_fractions) % 2:
            raise ValueError(
                f"SplitTable: device_fractions of {len(self.device_fractions)} devices; give those of both devices of "
                "each pair"
            )
        for device, fractions in enumerate(self.device_fractions):
            self._check_device(device, fractions)
        for plus, minus in zip(self.device_fractions[::2], self.device_fractions[1::2], strict=True):
            if plus[0] != minus[0]:
                raise ValueError(
                    f"SplitTable: device_fractions = {plus[0]} and {minus[0]} of a pair at a weight of 0; they must be "
                    "equal, because weights of either sign meet there"
                )

    def _check_device(self, device: int, fractions: tuple[float, ...]) -> None:
        if len(fractions) != len(self.weights):
            raise ValueError(
                f"SplitTable: device_fractions[{device}] has {len(fractions)} values; give one for each of the "
                f"{len(self.weights)} weights"
            )
        if not all(math.isfinite(f) and 0.0 <= f <= 1.0 for f in fractions):
            raise ValueError(
                f"SplitTable: device_fractions[{device}] = {fractions}; targets must lie in the window of the device, "
                "as fractions of it in [0, 1]"
            )

    def check(self, significances: tuple[float, ...]) -> None:
        """Raise ``ValueError`` unless there is a row for each device."""
        if len(self.device_fractions) != 2 * len(significances):
            raise ValueError(
                f"SplitTable: device_fractions of {len(self.device_fractions)} devices for {len(significances)} pairs; "
                f"give those of {2 * len(significances)} devices"
            )

    def pieces(self, significances: tuple[float, ...]) -> Pieces:
        """One piece between each two weights of the table."""
        at_weights = tuple(zip(*self.device_fractions, strict=True))
        return Pieces(self.weights[:-1], at_weights[:-1], at_weights[1:])


_Combination = tuple[int, frozenset[int]]
"""A partial pair, and the pairs whose positive device is full."""


@functools.lru_cache(maxsize=64)
def _full_and_partial(significances: tuple[float, ...]) -> tuple[_Combination, ...]:
    """The preferred combination in each interval of magnitudes, in increasing order."""
    pairs = range(len(significances))
    every = [
        (p, frozenset(full))
        for p in sorted(pairs, key=lambda k: significances[k])
        for count in pairs
        for full in itertools.combinations([k for k in pairs if k != p], count)
    ]
    spans = [_span(c, significances) for c in every]
    edges = sorted({edge for span in spans for edge in span})
    chosen: list[_Combination] = []
    for low, high in itertools.pairwise(edges):
        middle = 0.5 * (low + high)
        best = next(c for c, (a, b) in zip(every, spans, strict=True) if a <= middle <= b)
        if not chosen or chosen[-1] != best:
            chosen.append(best)
    return tuple(chosen)


def _span(combination: _Combination, significances: tuple[float, ...]) -> tuple[float, float]:
    """The magnitudes that a combination can represent, from the partial device at RESET to full SET."""
    partial, full = combination
    total, low = math.fsum(significances), math.fsum(significances[k] for k in full)
    return low / total, (low + significances[partial]) / total


def _pieces_of(combinations: Sequence[_Combination], significances: tuple[float, ...]) -> Pieces:
    """Pieces of combinations in increasing order; each ends where it is full, or where the next one starts."""
    ends = [_span(c, significances)[1] for c in combinations]
    starts, first, last = (0.0, *ends[:-1]), [], []
    for (partial, full), start, end in zip(combinations, starts, (*ends[:-1], 1.0), strict=True):
        low, high = _span((partial, full), significances)
        at_ends = [(magnitude - low) / (high - low) for magnitude in (start, end)]
        for rows, fraction in zip((first, last), at_ends, strict=True):
            on = [1.0 if k in full else fraction if k == partial else 0.0 for k in range(len(significances))]
            rows.append(tuple(value for f in on for value in (f, 0.0)))
    return Pieces(starts, tuple(first), tuple(last))
