"""The Tiki-Taka family: gradients gather on a fast array A, and what is read there goes to the slow array C.

On a device whose steps up and down differ, pulses drive the conductance to the point where they are equal, the
symmetric point. Of A alone that is asked to be near 0: it then forgets, and so holds the recent gradient, while C is
pulsed rarely and with purpose. The four algorithms differ in what lies between A and C.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

import torch
from torch import Tensor

from phasegrad.crossbar.streams import CHOPPER
from phasegrad.deprecation import renamed_arguments
from phasegrad.optim.fast_array import DueRows, FastArrayOptimizer, hidden_matrix
from phasegrad.stores import InMemoryWeight
from phasegrad.stores.pulsed_weight import pulse_slow


@final
class TikiTaka(FastArrayOptimizer):
    """Tiki-Taka (Gokmen and Haensch, Front. Neurosci. 14:103, 2020): rows of A are sent to C as trains of pulses.

    Every sample's trains pulse A. Every ``transfer_every`` samples an input line of A is read, in turn, and pulses the
    same line of C by ``lr / fast_lr`` of what was found. The rows that are due within a step are read at its end,
    after all samples of the batch, and each at most once. What is read as the weight is ``C + gamma A``, with the
    ``gain`` of the hardware's :class:`~phasegrad.crossbar.Fast`.

    A's symmetric point must lie at 0: what it is off is learned by C as if it were a gradient.

    Args:
        params: parameters or groups, as for any torch optimizer.
        lr: of the digital parameters, and of the slow arrays, which learn ``lr`` times the gradients that are found
            on a line, ``read / fast_lr``; schedulers may change it.
        momentum: of the digital parameters.
        fast_lr: learning rate of the fast arrays; ``None``: whatever makes a sample's largest product of input and
            gradient worth ``pulses`` pulses, as a running mean over the steps, layer by layer.
        pulses: see ``fast_lr``.
        transfer_every: samples from one transfer to the next.
        rows: input rows of a transfer; ``None`` for the whole array.

    Raises:
        ValueError: a number is impossible, or a weight's hardware has no fast array, or one that moves by itself.

    Examples:
        >>> import torch, phasegrad as pg
        >>> net = pg.convert(torch.nn.Sequential(torch.nn.Linear(8, 4)), pg.presets.tiki_taka_training())
        >>> optimizer = TikiTaka(net.parameters(), lr=0.1)
        >>> net(torch.randn(16, 8)).square().mean().backward()
        >>> optimizer.step()
    """

    @renamed_arguments(lines="rows")
    def __init__(
        self, params: Iterable[Any], lr: float, *, momentum: float = 0.0, fast_lr: float | None = None,
        pulses: float = 1.0, transfer_every: int = 1, rows: int | None = 1,
    ) -> None:  # fmt: skip
        super().__init__(
            params, lr, momentum=momentum, fast_lr=fast_lr, pulses=pulses, transfer_every=transfer_every, rows=rows
        )

    def _begin(self, weight: InMemoryWeight) -> dict[str, Any]:
        return {}

    def _transfer(self, weight: InMemoryWeight, state: dict[str, Any], group: dict[str, Any], due: DueRows) -> None:
        weight.apply_pulses(pulse_slow, due.read.neg().t().contiguous(), due.rate, due.rows, due.seed)


@final
class TikiTakaV2(FastArrayOptimizer):
    """TTv2, buffered Tiki-Taka (Gokmen, Front. Artif. Intell. 4:699148, 2021): a digital matrix H between A and C.

    A line that is read is added to H, ``lr / fast_lr`` times; where H then holds whole steps of C, they are sent as
    counted pulses and taken off. H filters what does not last: noise of A, and the coarseness of its steps.

    Args:
        params: parameters or groups, as for any torch optimizer.
        lr: see :class:`TikiTaka`, as for the arguments that are not named here.
        momentum: of the digital parameters.
        fast_lr: learning rate of the fast arrays, or ``None``.
        pulses: see :class:`TikiTaka`.
        transfer_every: samples from one transfer to the next.
        rows: input rows of a transfer; ``None`` for the whole array.
        threshold: change of the weight that a pulse is taken for; ``None`` for the nominal step of each layer's slow
            devices.

    Raises:
        ValueError: as :class:`TikiTaka`, or ``threshold`` not above 0.
    """

    @renamed_arguments(lines="rows")
    def __init__(
        self, params: Iterable[Any], lr: float, *, momentum: float = 0.0, fast_lr: float | None = None,
        pulses: float = 1.0, transfer_every: int = 1, rows: int | None = 1, threshold: float | None = None,
    ) -> None:  # fmt: skip
        if threshold is not None:
            self._check_positive("threshold", threshold)
        super().__init__(
            params, lr, momentum=momentum, fast_lr=fast_lr, pulses=pulses, transfer_every=transfer_every, rows=rows,
            threshold=threshold,
        )  # fmt: skip

    def _begin(self, weight: InMemoryWeight) -> dict[str, Any]:
        return {"hidden": hidden_matrix(weight)}

    def _transfer(self, weight: InMemoryWeight, state: dict[str, Any], group: dict[str, Any], due: DueRows) -> None:
        self._buffer(weight, state, group, due, due.read)


@final
class ChoppedTikiTakaV2(FastArrayOptimizer):
    """c-TTv2, chopped TTv2 (Rasch et al., Nat. Commun. 15:7133, 2024): random signs average A's symmetric point out.

    Each input line has a chopper, 1 or -1, by which its input is multiplied at the update, and what is read of it
    before it is added to H. After a read it flips with a probability. A gradient is thus turned twice, and whatever
    else A holds, its symmetric point first of all, once.

    Args:
        params: parameters or groups, as for any torch optimizer.
        lr: see :class:`TikiTaka`, as for the arguments that are not named here.
        momentum: of the digital parameters.
        fast_lr: learning rate of the fast arrays, or ``None``.
        pulses: see :class:`TikiTaka`.
        transfer_every: samples from one transfer to the next.
        rows: input rows of a transfer; ``None`` for the whole array.
        threshold: see :class:`TikiTakaV2`.
        probability: of a flip after a read.

    Raises:
        ValueError: as :class:`TikiTakaV2`, or ``probability`` is not one, or the hardware's fast array counts in the
            weight.
    """

    @renamed_arguments(lines="rows")
    def __init__(
        self, params: Iterable[Any], lr: float, *, momentum: float = 0.0, fast_lr: float | None = None,
        pulses: float = 1.0, transfer_every: int = 1, rows: int | None = 1, threshold: float | None = None,
        probability: float = 0.1,
    ) -> None:  # fmt: skip
        if threshold is not None:
            self._check_positive("threshold", threshold)
        if not 0.0 <= probability <= 1.0:
            raise ValueError(f"ChoppedTikiTakaV2: probability = {probability}; it must be in [0, 1]")
        super().__init__(
            params, lr, momentum=momentum, fast_lr=fast_lr, pulses=pulses, transfer_every=transfer_every, rows=rows,
            threshold=threshold, probability=probability,
        )  # fmt: skip

    def _check_hardware(self, weight: InMemoryWeight) -> None:
        super()._check_hardware(weight)
        _check_gain(self, weight)

    def _begin(self, weight: InMemoryWeight) -> dict[str, Any]:
        hidden = hidden_matrix(weight)
        return {"hidden": hidden, "chopper": torch.ones_like(hidden[0])}

    def _transfer(self, weight: InMemoryWeight, state: dict[str, Any], group: dict[str, Any], due: DueRows) -> None:
        self._buffer(weight, state, group, due, due.read * state["chopper"][due.rows])
        drawn = torch.ops.phasegrad.uniform(due.seed, CHOPPER, (len(due.rows),))
        _flip(state["chopper"], due.rows, drawn < group["probability"])


@final
class AGAD(FastArrayOptimizer):
    """AGAD, analog gradient accumulation with dynamic reference (Rasch et al., Nat. Commun. 15:7133, 2024).

    As :class:`ChoppedTikiTakaV2`, but choppers flip regularly, and from each read the reference of its cells is
    subtracted before it counts: what A's past reads had come to when the chopper flipped last. H learns what A
    gathered since; where A's symmetric point lies does not matter, and it may wander.

    Args:
        params: parameters or groups, as for any torch optimizer.
        lr: see :class:`TikiTaka`, as for the arguments that are not named here.
        momentum: of the digital parameters.
        fast_lr: learning rate of the fast arrays, or ``None``.
        pulses: see :class:`TikiTaka`.
        transfer_every: samples from one transfer to the next.
        rows: input rows of a transfer; ``None`` for the whole array.
        threshold: see :class:`TikiTakaV2`.
        period: reads of a line from one flip of its chopper to the next.
        averaged: weight of a new read in the running mean that the reference is taken from; 1 for the last read
            alone, less where reads are noisy.

    Raises:
        ValueError: as :class:`TikiTakaV2`, or ``period`` is below 1, ``averaged`` not in (0, 1], or the hardware's
            fast array counts in the weight.
    """

    @renamed_arguments(lines="rows")
    def __init__(
        self, params: Iterable[Any], lr: float, *, momentum: float = 0.0, fast_lr: float | None = None,
        pulses: float = 1.0, transfer_every: int = 1, rows: int | None = 1, threshold: float | None = None,
        period: int = 10, averaged: float = 1.0,
    ) -> None:  # fmt: skip
        if threshold is not None:
            self._check_positive("threshold", threshold)
        self._check_whole("period", period)
        if not 0.0 < averaged <= 1.0:
            raise ValueError(f"AGAD: averaged = {averaged}; it must be above 0 and at most 1")
        super().__init__(
            params, lr, momentum=momentum, fast_lr=fast_lr, pulses=pulses, transfer_every=transfer_every, rows=rows,
            threshold=threshold, period=period, averaged=averaged,
        )  # fmt: skip

    def _check_hardware(self, weight: InMemoryWeight) -> None:
        super()._check_hardware(weight)
        _check_gain(self, weight)

    def _begin(self, weight: InMemoryWeight) -> dict[str, Any]:
        hidden = hidden_matrix(weight)
        past, reference = torch.zeros_like(hidden), torch.zeros_like(hidden)
        return {"hidden": hidden, "chopper": torch.ones_like(hidden[0]), "past": past, "reference": reference}

    def _transfer(self, weight: InMemoryWeight, state: dict[str, Any], group: dict[str, Any], due: DueRows) -> None:
        past, reference = (state[name].index_select(1, due.rows) for name in ("past", "reference"))
        self._buffer(weight, state, group, due, (due.read - reference) * state["chopper"][due.rows])
        past.lerp_(due.read, group["averaged"])
        state["past"].index_copy_(1, due.rows, past)
        flips = (due.reads + 1) % group["period"] == 0
        state["reference"].index_copy_(1, due.rows, torch.where(flips, past, reference))
        _flip(state["chopper"], due.rows, flips)


def _flip(chopper: Tensor, rows: Tensor, where: Tensor) -> None:
    chopper[rows] = chopper[rows] * torch.where(where, -1.0, 1.0)


def _check_gain(optimizer: FastArrayOptimizer, weight: InMemoryWeight) -> None:
    fast = weight.devices.hardware.fast
    if fast is not None and fast.gain != 0.0:
        raise ValueError(
            f"{type(optimizer).__name__}: fast.gain = {fast.gain} in the hardware of a weight of shape "
            f"{tuple(weight.shape)}; choppers turn the signs of the fast array's rows, so it cannot count in the "
            "weight: Fast(..., gain=0.0)"
        )
