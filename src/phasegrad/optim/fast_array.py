"""The base class of the Tiki-Taka family: a fast array accumulates gradients, and its rows update a slow array.

References:
    Gokmen, T. & Haensch, W. Algorithm for training neural networks on resistive device arrays. Front. Neurosci. 14, 103
    (2020). https://doi.org/10.3389/fnins.2020.00103
"""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from phasegrad.deprecation import warn_renamed
from phasegrad.ops.host_reads import waits
from phasegrad.optim.base import PulsedOptimizer, largest_size
from phasegrad.optim.snapshot import Snapshot
from phasegrad.stores import InMemoryWeight
from phasegrad.stores.pulsed_weight import read_fast, send_counts_to_slow, update

_AVERAGED = 0.05
"""Weight of a step in the running mean that determines the automatic ``fast_lr``."""

_GROWTH = 2.0
"""Largest growth of that mean in one step. A mean alone would remember a spike of 1e6 times for 200 steps, in which the
fast array receives next to nothing, and its reads count far too much."""

_BEYOND = 4.0
"""A read of the fast array is at most this multiple of its scale: bounds vary from device to device, and reads are
noisy."""


class FastRate(NamedTuple):
    """The learning rate of the fast array of a weight in one step."""

    update: float
    """The rate of the update."""
    transfer: float
    """The rate that scales reads: the content of the array is that of many steps, so one spike hardly counts."""
    strength: float
    """The running mean of the largest products of input and gradient."""


class DueRows(NamedTuple):
    """Rows (inputs) of one weight that are due for a transfer."""

    rows: Tensor
    """Indices of the rows ``[rows]``."""
    reads: Tensor
    """Number of earlier reads of each row ``[rows]``."""
    read: Tensor
    """The read of the fast array on these rows ``[out, rows]``."""
    rate: float
    """Factor of the read in the update of the slow array, ``lr / fast_lr``."""
    seed: Tensor
    """Seed of the pulses on the slow array."""


class FastArrayOptimizer(PulsedOptimizer):
    """Optimizer that pulses the fast array and reads its rows in turn; subclasses transfer the reads to the slow array.

    Args:
        params: parameters or groups, as for any torch optimizer.
        lr: learning rate of the digital parameters and of the slow arrays, which change by ``lr read / fast_lr`` per
            read of a row; schedulers may change it.
        momentum: momentum of the digital parameters.
        fast_lr: learning rate of the fast arrays; ``None`` to set it per layer so that the largest product of input and
            gradient of a sample, as a running mean over steps, corresponds to ``pulses`` pulses. A step at most
            doubles the mean, so a spike of the gradients is soon forgotten.
        pulses: number of pulses for the automatic ``fast_lr``.
        transfer_every: samples from one transfer to the next.
        rows: rows (inputs) per transfer; ``None`` for the whole array.
        more: further options of a group.

    Raises:
        ValueError: a number is out of range, or a weight's hardware has no fast array or one with its own transfer.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, *, momentum: float, fast_lr: float | None, pulses: float,
        transfer_every: int, rows: int | None, **more: Any,
    ) -> None:  # fmt: skip
        defaults = {"lr": lr, "momentum": momentum, "fast_lr": fast_lr, "pulses": pulses, "rows": rows}
        super().__init__(params, {**defaults, "transfer_every": transfer_every, **more})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, after a check that its weights have fast arrays without their own transfer."""
        if {"lines", "rows"} <= param_group.keys():
            raise TypeError(f"{type(self).__name__}: lines and rows of a group are one option; give rows alone")
        _rename_lines(param_group)
        super().add_param_group(param_group)

    def _check_hardware(self, weight: InMemoryWeight) -> None:
        fast, name = weight.devices.hardware.fast, type(self).__name__
        where = f"in the hardware of a weight of shape {tuple(weight.shape)}"
        if fast is None:
            raise ValueError(
                f"{name}: fast = None {where}, but the algorithm accumulates gradients on a fast array. Use "
                "Hardware(..., fast=Fast(cell=..., scale=...))"
            )
        if fast.transfer is not None:
            raise ValueError(
                f"{name}: fast.transfer = {fast.transfer} {where}, but the optimizer transfers to the slow array. Use "
                "Fast(..., transfer=None)"
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # type: ignore[override]
        """Load as every pulsed optimizer does; release 0.1.0 saved ``rows`` as ``lines``."""
        groups = [{"rows" if k == "lines" else k: v for k, v in g.items()} for g in state_dict["param_groups"]]
        super().load_state_dict({**state_dict, "param_groups": groups})

    @abstractmethod
    def _initial_state(self, weight: InMemoryWeight) -> dict[str, Any]:
        """The algorithm's initial state of a weight, without the counters."""

    @abstractmethod
    def _transfer(self, weight: InMemoryWeight, state: dict[str, Any], group: dict[str, Any], due: DueRows) -> None:
        """Update the slow array from a read of the fast one."""

    def _step(self) -> None:
        """Update all parameters, or none if counted pulses are refused, which only the reads of the step decide."""
        self._fast_rates: dict[InMemoryWeight, FastRate] = {}
        self._may_be_refused = False
        self._check()
        snapshot = Snapshot(self, self._weights(self.param_groups)) if self._may_be_refused else None
        try:
            self._update_all()
        except ValueError:
            if snapshot is not None:
                snapshot.restore()
            raise

    def _check_update(self, weight: InMemoryWeight, group: dict[str, Any]) -> None:
        """Find the rate of the fast array, and whether a read could send more pulses than the slow devices accept."""
        _rename_lines(group)
        fast = self._fast_rates[weight] = self._fast_rate(weight, self.state[weight], group)
        rate = float(group["lr"]) / fast.transfer if fast.update > 0.0 and fast.transfer > 0.0 else math.inf
        if not (math.isfinite(fast.update) and math.isfinite(rate)):
            raise ValueError(
                f"{type(self).__name__}: the largest product of input and gradient of a weight of shape "
                f"{tuple(weight.shape)} is {fast.strength:.4g}, for which the fast array has no learning rate "
                f"(fast_lr = {fast.update}), so no device was pulsed. Check the scale of the loss, lower lr = "
                f"{group['lr']}, or give fast_lr, and call zero_grad before the next step"
            )
        array = weight.devices.hardware.fast
        if array is not None and "threshold" in group:
            largest_transfer = _BEYOND * array.scale * rate
            self._may_be_refused |= largest_transfer > self._threshold(weight, group) * weight.devices.most_pulses

    def _threshold(self, weight: InMemoryWeight, group: dict[str, Any]) -> float:
        return group["threshold"] or weight.devices.dw_min

    def _pulse(self, weight: InMemoryWeight, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state.update({"samples": 0, "reads": 0, "strength": 0.0}, **self._initial_state(weight))
        assert weight.pending is not None
        fast = self._fast_rates[weight]
        state["strength"] = fast.strength
        number, trained = weight.pending.number, weight.trained_cells
        samples, chopper = weight.staged(use=True), state.get("chopper")
        if chopper is not None:
            samples = ((x * chopper, d) for x, d in samples)
        weight.apply_pulses(update, samples, fast.update, self._draw_seed(weight, group))
        rows, reads = self._due(weight, state, group, number)
        if len(rows):
            seed = self._draw_seed(weight, group)
            read = read_fast(weight.devices, rows, seed)
            if trained is not None:  # what is read in other cells must not reach the slow array
                read = read * trained.index_select(1, rows)
            self._transfer(weight, state, group, DueRows(rows, reads, read, float(group["lr"]) / fast.transfer, seed))
        state["samples"] += number
        state["reads"] += len(rows)

    def _fast_rate(self, weight: InMemoryWeight, state: dict[str, Any], group: dict[str, Any]) -> FastRate:
        """The rate of the fast array in this step, with the running mean of the largest products."""
        past = state.get("strength", 0.0)
        if group["fast_lr"] is not None:
            return FastRate(float(group["fast_lr"]), float(group["fast_lr"]), past)
        assert weight.pending is not None
        sizes = [(_largest(s.x), _largest(s.d)) for s in weight.pending.samples if len(s.x)]
        now = float(torch.cat([x * d for x, d in sizes]).mean()) if sizes else 0.0
        if not math.isfinite(now):  # the product of two floats may have no float
            now = float(torch.cat([x.double() * d.double() for x, d in sizes]).mean())
        mean = now if past == 0.0 else past + _AVERAGED * (now - past)
        kept = min(mean, _GROWTH * past) if past > 0.0 and math.isfinite(mean) else mean
        # Without any gradient so far, no rate sends pulses, so 1 is safe.
        size = group["pulses"] * weight.devices.pulse_size
        return FastRate(size / (mean or 1.0), size / (kept or 1.0), kept)

    def _due(
        self, weight: InMemoryWeight, state: dict[str, Any], group: dict[str, Any], number: int
    ) -> tuple[Tensor, Tensor]:
        """Indices of the rows to read after an update of ``number`` samples, and the number of earlier reads of each.

        All rows that are due within a step are read at its end, each at most once.
        """
        total, every, before = weight.matrix_size[1], group["transfer_every"], state["samples"]
        transfers = (before + number) // every - before // every
        due = min(transfers * (group["rows"] or total), total)
        reads = state["reads"] + torch.arange(due, device=weight.device)
        return reads % total, reads // total

    def _buffer(
        self, weight: InMemoryWeight, state: dict[str, Any], group: dict[str, Any], due: DueRows, read: Tensor
    ) -> None:
        """Add a read to the hidden matrix, and send its whole steps as counted pulses."""
        threshold = self._threshold(weight, group)
        hidden = state["hidden"].index_select(1, due.rows).add_(read, alpha=due.rate)
        steps = (hidden / threshold).trunc_()
        bounded = waits(steps) and not self._may_be_refused  # by the check of the step: no need to look
        largest = math.inf if bounded else largest_size(steps)
        if not bounded:
            self._check_pulses(weight, weight.devices, largest)
        counts = steps.to(torch.int32)
        hidden.sub_(steps, alpha=threshold)

        def sent() -> None:
            state["hidden"].index_copy_(1, due.rows, hidden)

        if largest > 0.0:
            weight.apply_pulses(functools.partial(send_counts_to_slow, sent=sent), counts, due.rows, due.seed)
        else:
            sent()


def hidden_matrix(weight: InMemoryWeight) -> Tensor:
    """A hidden matrix of zeros for a weight, float32 ``[out, in]``."""
    return torch.zeros_like(weight.devices.conductance[0])


def _rename_lines(group: dict[str, Any]) -> None:
    if "lines" in group:
        warn_renamed("lines of a parameter group", "rows")
        group["rows"] = group.pop("lines")


def _largest(values: Tensor) -> Tensor:
    """The largest absolute value of each sample, or image."""
    return values.flatten(1).abs().amax(1).float()
