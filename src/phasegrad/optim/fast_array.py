"""What the Tiki-Taka family shares: gradients gather on a fast array, and go to the slow one line by line.

Source: Gokmen and Haensch, Front. Neurosci. 14:103 (2020).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from phasegrad.deprecation import warn_renamed
from phasegrad.optim.base import PulsedOptimizer
from phasegrad.stores import InMemoryWeight
from phasegrad.stores.pulsed_weight import read_fast, send_counts_to_slow, update

_AVERAGED = 0.05
"""Weight of a step in the running mean that an automatic ``fast_lr`` follows."""


class DueRows(NamedTuple):
    """Input rows of one weight whose time has come."""

    rows: Tensor
    """Their numbers ``[rows]``."""
    reads: Tensor
    """How often each has been read before ``[rows]``."""
    read: Tensor
    """What the fast array held on them ``[out, rows]``."""
    rate: float
    """What of it the slow array learns: ``lr / fast_lr``."""
    seed: Tensor


class FastArrayOptimizer(PulsedOptimizer):
    """Pulses go to the fast array, whose input rows are read in turn and taken to the slow one by the concrete class.

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
        more: what else a group holds.

    Raises:
        ValueError: a number is impossible, or a weight's hardware has no fast array, or one that moves by itself.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, *, momentum: float, fast_lr: float | None, pulses: float,
        transfer_every: int, rows: int | None, **more: Any,
    ) -> None:  # fmt: skip
        if fast_lr is not None:
            self._check_positive("fast_lr", fast_lr)
        self._check_positive("pulses", pulses)
        self._check_whole("transfer_every", transfer_every)
        if rows is not None:
            self._check_whole("rows", rows)
        defaults = {"lr": lr, "momentum": momentum, "fast_lr": fast_lr, "pulses": pulses, "rows": rows}
        super().__init__(params, {**defaults, "transfer_every": transfer_every, **more})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take a group in, if its weights have fast arrays that an optimizer may read."""
        if "lines" in param_group:
            warn_renamed("lines of a parameter group", "rows")
            param_group["rows"] = param_group.pop("lines")
        super().add_param_group(param_group)
        try:
            for parameter in self.param_groups[-1]["params"]:
                if isinstance(parameter, InMemoryWeight):
                    self._check_hardware(parameter)
        except ValueError:
            self.param_groups.pop()
            raise

    def _check_hardware(self, weight: InMemoryWeight) -> None:
        fast, name = weight.devices.hardware.fast, type(self).__name__
        which = f"in the hardware of a weight of shape {tuple(weight.shape)}"
        if fast is None:
            raise ValueError(
                f"{name}: fast = None {which}; gradients gather on a fast array, so give it one: "
                "Hardware(..., fast=Fast(cell=..., scale=...))"
            )
        if fast.transfer is not None:
            raise ValueError(
                f"{name}: fast.transfer = {fast.transfer} {which}; the optimizer decides what moves to the slow array, "
                "so leave it None"
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # type: ignore[override]
        """Load, as every pulsed optimizer does; release 0.1.0 wrote ``rows`` as ``lines``."""
        groups = [{"rows" if k == "lines" else k: v for k, v in g.items()} for g in state_dict["param_groups"]]
        super().load_state_dict({**state_dict, "param_groups": groups})

    @abstractmethod
    def _begin(self, weight: InMemoryWeight) -> dict[str, Any]:
        """What the algorithm remembers of a weight beside the counters."""

    @abstractmethod
    def _transfer(self, weight: InMemoryWeight, state: dict[str, Any], group: dict[str, Any], due: DueRows) -> None:
        """Take what was read to the slow array."""

    def _pulse(self, weight: InMemoryWeight, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state.update({"samples": 0, "reads": 0, "strength": 0.0}, **self._begin(weight))
        fast_lr = self._fast_rate(weight, state, group)
        samples, chopper = weight.staged(), state.get("chopper")
        if chopper is not None:
            samples = ((x * chopper, d) for x, d in samples)
        weight.apply_pulses(update, samples, fast_lr, self._draw_seed(weight, group))
        rows, reads = self._due(weight, state, group)
        if len(rows):
            seed = self._draw_seed(weight, group)
            read = read_fast(weight.devices, rows, seed)
            self._transfer(weight, state, group, DueRows(rows, reads, read, float(group["lr"]) / fast_lr, seed))

    def _fast_rate(self, weight: InMemoryWeight, state: dict[str, Any], group: dict[str, Any]) -> float:
        if group["fast_lr"] is not None:
            return float(group["fast_lr"])
        assert weight.grad is not None
        products = [_largest(s.x) * _largest(s.d) for s in weight.grad.samples if len(s.x)]
        now = float(torch.cat(products).mean()) if products else 0.0
        past = state["strength"]
        state["strength"] = now if past == 0.0 else past + _AVERAGED * (now - past)
        # Without any gradient so far nothing is pulsed, and nothing found, at any rate.
        return group["pulses"] * weight.devices.pulse_size / (state["strength"] or 1.0)

    def _due(self, weight: InMemoryWeight, state: dict[str, Any], group: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Numbers of the rows to read after this step, and how often each has been read.

        All that are due within a step are read at its end, and none twice.
        """
        assert weight.grad is not None
        across, every = weight.numel() // len(weight), group["transfer_every"]
        before = state["samples"]
        state["samples"] = before + sum(s.number for s in weight.grad.samples)
        transfers = state["samples"] // every - before // every
        number = min(transfers * (group["rows"] or across), across)
        reads = state["reads"] + torch.arange(number, device=weight.device)
        state["reads"] += number
        return reads % across, reads // across

    def _buffer(
        self, weight: InMemoryWeight, state: dict[str, Any], group: dict[str, Any], due: DueRows, found: Tensor
    ) -> None:
        """Add to the digital hidden matrix, and send the whole steps that it then holds as pulses."""
        threshold = group["threshold"] or weight.devices.dw_min
        hidden = state["hidden"].index_select(1, due.rows).add_(found, alpha=due.rate)
        steps = (hidden / threshold).trunc_()
        state["hidden"].index_copy_(1, due.rows, hidden.sub_(steps, alpha=threshold))
        if bool(steps.any()):
            weight.apply_pulses(send_counts_to_slow, steps.to(torch.int32), due.rows, due.seed)

    def _check_positive(self, name: str, value: float) -> None:
        if not 0.0 < value < math.inf:
            raise ValueError(f"{type(self).__name__}: {name} = {value}; it must be finite and above 0")

    def _check_whole(self, name: str, value: int) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{type(self).__name__}: {name} = {value}; it must be a whole number, 1 or more")


def hidden_matrix(weight: InMemoryWeight) -> Tensor:
    """Zeros of a weight's size, float32 ``[out, in]``."""
    return torch.zeros_like(weight.devices.conductance[0])


def _largest(values: Tensor) -> Tensor:
    """The largest size of each sample, or image."""
    return values.flatten(1).abs().amax(1).float()
