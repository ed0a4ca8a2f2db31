"""The Tiki-Taka family: a fast array A accumulates gradients, and reads of A update the slow array C.

If the steps up and down of a device differ, pulses drive its conductance to the symmetric point, where they are equal.
On A, this decay to the symmetric point discards old gradients, while C is pulsed rarely and only by reads of A. The
four algorithms differ in the digital processing between A and C.
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
    """Tiki-Taka (Gokmen and Haensch, 2020): reads of the rows of A are sent to C as pulse trains.

    Every sample pulses A: ``A -= fast_lr d^T x``. Every ``transfer_every`` samples the next row of A is read and pulses
    the same row of C: ``C[:, row] += (lr / fast_lr) read(A[:, row])``. Rows that are due within a step are read at its
    end, after all samples of the batch, each at most once. The weight is ``C + gamma A``, where ``gamma`` is the
    ``gain`` of the hardware's [`Fast`][phasegrad.crossbar.Fast].

    The symmetric point of A must be 0: C learns any offset as if it were a gradient.

    Args:
        params: parameters or groups, as for any torch optimizer.
        lr: learning rate of the digital parameters and of the slow arrays, which change by ``lr read / fast_lr`` per
            read of a row; schedulers may change it.
        momentum: momentum of the digital parameters.
        fast_lr: learning rate of the fast arrays; ``None`` to set it per layer so that the largest product of input and
            gradient of a sample, as a running mean over steps, corresponds to ``pulses`` pulses. A step at most
            doubles the mean, so a spike of the gradients is soon forgotten. On CUDA each step waits for that product.
        pulses: number of pulses for the automatic ``fast_lr``.
        transfer_every: samples from one transfer to the next.
        rows: rows (inputs) per transfer; ``None`` for the whole array.

    Raises:
        ValueError: a number is out of range, or a weight's hardware has no fast array or one with its own transfer.

    References:
        Gokmen, T. & Haensch, W. Algorithm for training neural networks on resistive device arrays. Front. Neurosci. 14,
        103 (2020). https://doi.org/10.3389/fnins.2020.00103

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

    def _initial_state(self, weight: InMemoryWeight) -> dict[str, Any]:
        return {}

    def _transfer(self, weight: InMemoryWeight, state: dict[str, Any], group: dict[str, Any], due: DueRows) -> None:
        weight.apply_pulses(pulse_slow, due.read.neg().t().contiguous(), due.rate, due.rows, due.seed)


@final
class TikiTakaV2(FastArrayOptimizer):
    """TTv2, buffered Tiki-Taka (Gokmen, 2021): a digital hidden matrix H between A and C.

    Reads accumulate in H: ``H[:, row] += (lr / fast_lr) read(A[:, row])``. Then ``n = trunc(H / threshold)`` counted
    pulses are sent to C, and ``H -= n threshold``. H averages out the noise of A and the granularity of its steps.

    Args:
        params: parameters or groups, as for any torch optimizer.
        lr: learning rate of the digital parameters and of the slow arrays; see [`TikiTaka`][phasegrad.optim.TikiTaka].
        momentum: momentum of the digital parameters.
        fast_lr: learning rate of the fast arrays, or ``None``; see [`TikiTaka`][phasegrad.optim.TikiTaka].
        pulses: number of pulses for the automatic ``fast_lr``.
        transfer_every: samples from one transfer to the next.
        rows: rows (inputs) per transfer; ``None`` for the whole array.
        threshold: assumed change of the weight per pulse; ``None`` for the nominal step of each layer's slow devices.

    Raises:
        ValueError: as for [`TikiTaka`][phasegrad.optim.TikiTaka], or ``threshold`` is not finite and above 0.

    References:
        Gokmen, T. Enabling training of neural networks on noisy hardware. Front. Artif. Intell. 4, 699148 (2021).
        https://doi.org/10.3389/frai.2021.699148
    """

    @renamed_arguments(lines="rows")
    def __init__(
        self, params: Iterable[Any], lr: float, *, momentum: float = 0.0, fast_lr: float | None = None,
        pulses: float = 1.0, transfer_every: int = 1, rows: int | None = 1, threshold: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            params, lr, momentum=momentum, fast_lr=fast_lr, pulses=pulses, transfer_every=transfer_every, rows=rows,
            threshold=threshold,
        )  # fmt: skip

    def _initial_state(self, weight: InMemoryWeight) -> dict[str, Any]:
        return {"hidden": hidden_matrix(weight)}

    def _transfer(self, weight: InMemoryWeight, state: dict[str, Any], group: dict[str, Any], due: DueRows) -> None:
        self._buffer(weight, state, group, due, due.read)


@final
class ChoppedTikiTakaV2(FastArrayOptimizer):
    """c-TTv2, chopped TTv2 (Rasch et al., 2024): choppers with random flips average out the symmetric point of A.

    Each row has a chopper ``c``, 1 or -1, which multiplies its input at the update and its read before the sum:
    ``A -= fast_lr d^T (c x)`` and ``H[:, row] += (lr / fast_lr) c[row] read(A[:, row])``. After a read, the chopper
    flips with probability ``probability``. Gradients are multiplied by the chopper twice, which leaves them unchanged;
    offsets of A, such as its symmetric point, are multiplied once and average out.

    Args:
        params: parameters or groups, as for any torch optimizer.
        lr: learning rate of the digital parameters and of the slow arrays; see [`TikiTaka`][phasegrad.optim.TikiTaka].
        momentum: momentum of the digital parameters.
        fast_lr: learning rate of the fast arrays, or ``None``; see [`TikiTaka`][phasegrad.optim.TikiTaka].
        pulses: number of pulses for the automatic ``fast_lr``.
        transfer_every: samples from one transfer to the next.
        rows: rows (inputs) per transfer; ``None`` for the whole array.
        threshold: assumed change of the weight per pulse; see [`TikiTakaV2`][phasegrad.optim.TikiTakaV2].
        probability: probability of a flip after a read.

    Raises:
        ValueError: as for ``TikiTakaV2``, or ``probability`` is not in [0, 1], or the fast array of the hardware
            contributes to the weight.

    References:
        Rasch, M. J., Carta, F., Fagbohungbe, O. & Gokmen, T. Fast and robust analog in-memory deep neural network
        training. Nat. Commun. 15, 7133 (2024). https://doi.org/10.1038/s41467-024-51221-z
    """

    @renamed_arguments(lines="rows")
    def __init__(
        self, params: Iterable[Any], lr: float, *, momentum: float = 0.0, fast_lr: float | None = None,
        pulses: float = 1.0, transfer_every: int = 1, rows: int | None = 1, threshold: float | None = None,
        probability: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__(
            params, lr, momentum=momentum, fast_lr=fast_lr, pulses=pulses, transfer_every=transfer_every, rows=rows,
            threshold=threshold, probability=probability,
        )  # fmt: skip

    def _check_hardware(self, weight: InMemoryWeight) -> None:
        super()._check_hardware(weight)
        _check_gain(self, weight)

    def _initial_state(self, weight: InMemoryWeight) -> dict[str, Any]:
        hidden = hidden_matrix(weight)
        return {"hidden": hidden, "chopper": torch.ones_like(hidden[0])}

    def _transfer(self, weight: InMemoryWeight, state: dict[str, Any], group: dict[str, Any], due: DueRows) -> None:
        self._buffer(weight, state, group, due, due.read * state["chopper"][due.rows])
        drawn = torch.ops.phasegrad.uniform(due.seed, CHOPPER, (len(due.rows),))
        _flip(state["chopper"], due.rows, drawn < group["probability"])


@final
class AGAD(FastArrayOptimizer):
    """AGAD, analog gradient accumulation with dynamic reference (Rasch et al., 2024).

    It differs from ``ChoppedTikiTakaV2`` in two ways. Choppers flip after a fixed number of reads, and a reference
    ``R``, the running mean of the reads of A at the last flip, is subtracted from each read:
    ``H[:, row] += (lr / fast_lr) c[row] (read(A[:, row]) - R[:, row])``. H thus accumulates only the change of A since
    the flip, so the symmetric point of A may have any value and may drift.

    Args:
        params: parameters or groups, as for any torch optimizer.
        lr: learning rate of the digital parameters and of the slow arrays; see [`TikiTaka`][phasegrad.optim.TikiTaka].
        momentum: momentum of the digital parameters.
        fast_lr: learning rate of the fast arrays, or ``None``; see [`TikiTaka`][phasegrad.optim.TikiTaka].
        pulses: number of pulses for the automatic ``fast_lr``.
        transfer_every: samples from one transfer to the next.
        rows: rows (inputs) per transfer; ``None`` for the whole array.
        threshold: assumed change of the weight per pulse; see [`TikiTakaV2`][phasegrad.optim.TikiTakaV2].
        period: number of reads of a row between two flips of its chopper.
        averaged: weight of a new read in the running mean for the reference: 1 uses only the last read, less
            suits noisy reads.

    Raises:
        ValueError: as for ``TikiTakaV2``, or ``period`` is below 1, or ``averaged`` is not in (0, 1], or the fast
            array of the hardware contributes to the weight.

    References:
        Rasch, M. J., Carta, F., Fagbohungbe, O. & Gokmen, T. Fast and robust analog in-memory deep neural network
        training. Nat. Commun. 15, 7133 (2024). https://doi.org/10.1038/s41467-024-51221-z
    """

    @renamed_arguments(lines="rows")
    def __init__(
        self, params: Iterable[Any], lr: float, *, momentum: float = 0.0, fast_lr: float | None = None,
        pulses: float = 1.0, transfer_every: int = 1, rows: int | None = 1, threshold: float | None = None,
        period: int = 10, averaged: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__(
            params, lr, momentum=momentum, fast_lr=fast_lr, pulses=pulses, transfer_every=transfer_every, rows=rows,
            threshold=threshold, period=period, averaged=averaged,
        )  # fmt: skip

    def _check_hardware(self, weight: InMemoryWeight) -> None:
        super()._check_hardware(weight)
        _check_gain(self, weight)

    def _initial_state(self, weight: InMemoryWeight) -> dict[str, Any]:
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
            f"{tuple(weight.shape)}, but choppers invert the signs of the fast array's rows, so the array must not "
            "contribute to the weight. Use Fast(..., gain=0.0)"
        )
