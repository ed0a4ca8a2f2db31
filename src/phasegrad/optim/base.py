"""What every optimizer that pulses devices shares."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from phasegrad.crossbar.streams import draw_seed
from phasegrad.optim.replicas import common_generator, gathered, processes, share_devices
from phasegrad.stores import InMemoryWeight


class PulsedOptimizer(torch.optim.Optimizer):
    """Digital parameters are added to, as by ``torch.optim.SGD``; in-memory weights are left to the concrete class.

    Where torch has a process group when the optimizer is made, weights in the memory are replicas: all processes take
    over the devices of rank 0, and at each step the samples of all, and pulses by a seed of rank 0, so that they stay
    the same to the bit. A group of parameters with ``replicated=False`` stays with its own process.

    Args:
        params: parameters or groups, as for any torch optimizer.
        defaults: of a group; ``lr`` and ``momentum`` among them.

    Raises:
        ValueError: a rate is negative or not finite.
    """

    pulses_devices = True

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        for name in ("lr", "momentum"):
            self._check_rate(name, defaults[name])
        self._common: torch.Generator | None = None
        self._processes = processes()
        super().__init__(params, {**defaults, "replicated": True})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take a group in, with the devices of rank 0 if it is replicated."""
        super().add_param_group(param_group)
        share_devices(self._replicas(self.param_groups[-1:]))

    @abstractmethod
    def _pulse(self, weight: InMemoryWeight, group: dict[str, Any]) -> None:
        """Turn what is staged into pulses."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Pulse and add once.

        Args:
            closure: reevaluates the model and returns the loss, as in torch.

        Raises:
            ValueError: the learning rate, an input or a gradient is not finite; nothing was changed.
            RuntimeError: the process group is another one than when the optimizer was made.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._check_processes()
        if replicas := self._replicas(self.param_groups):
            self._common = common_generator(replicas[0].device)
            with gathered(replicas):
                self._step()
        else:
            self._step()
        return loss

    def _check_processes(self) -> None:
        if processes() != self._processes:
            raise RuntimeError(
                f"{type(self).__name__}: made with {self._processes} process(es), and stepped with {processes()}; make "
                "the optimizer after torch.distributed.init_process_group, so that all have the devices of rank 0"
            )

    def _step(self) -> None:
        self._check()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if isinstance(parameter, InMemoryWeight):
                    if parameter.grad.samples:
                        self._pulse(parameter, group)
                else:
                    parameter.add_(self._direction(parameter, group["momentum"]), alpha=-float(group["lr"]))

    def _replicas(self, groups: list[dict[str, Any]]) -> list[InMemoryWeight]:
        """The weights that other processes have too."""
        if processes() == 1:
            return []
        return [
            parameter
            for group in groups
            if group.get("replicated", True)
            for parameter in group["params"]
            if isinstance(parameter, InMemoryWeight)
        ]

    def _draw_seed(self, weight: InMemoryWeight, group: dict[str, Any]) -> Tensor:
        """A seed of pulses: of torch's global stream, or for replicas of one that is common to them."""
        if self._common is None or not group.get("replicated", True):
            return draw_seed(weight.device)
        return torch.randint(-(2**63), 2**63 - 1, (1,), generator=self._common).to(weight.device)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # type: ignore[override]
        """Load, as in torch, but keep to the bit what is remembered of weights in the memory.

        Torch rounds it to the dtype of the weight, which may be coarser than the devices are.
        """
        super().load_state_dict(state_dict)
        saved = (number for group in state_dict["param_groups"] for number in group["params"])
        for group in self.param_groups:
            for parameter in group["params"]:
                kept = state_dict["state"].get(next(saved), {})
                if isinstance(parameter, InMemoryWeight):
                    tensors = {k: v for k, v in kept.items() if isinstance(v, Tensor)}
                    self.state[parameter].update({k: v.to(parameter.device, copy=True) for k, v in tensors.items()})

    def _direction(self, parameter: Tensor, momentum: float) -> Tensor:
        gradient = parameter.grad
        assert gradient is not None
        if momentum == 0.0:
            return gradient
        state = self.state[parameter]
        if "velocity" not in state:
            state["velocity"] = gradient.clone()
        else:
            state["velocity"].mul_(momentum).add_(gradient)
        return state["velocity"]

    def _check_rate(self, name: str, value: float) -> None:
        if not (math.isfinite(value) and value >= 0.0):
            raise ValueError(f"{type(self).__name__}: {name} = {value}; it must be finite and not negative")

    def _check(self) -> None:
        """Everything is looked at before anything moves."""
        for group in self.param_groups:
            self._check_rate("learning rate lr", float(group["lr"]))
            for parameter in group["params"]:
                if isinstance(parameter, InMemoryWeight) and parameter.grad is not None:
                    for x, d, _ in parameter.grad.samples:
                        if not _finite(x) or not _finite(d):
                            raise ValueError(
                                f"{type(self).__name__}: a staged input or gradient is not finite, so nothing was "
                                "pulsed; look for a diverged loss, lower the learning rate, and call zero_grad before "
                                "going on"
                            )


def _finite(x: Tensor) -> bool:
    """Whether every value is: seen from the sum, which is one pass, unless the sum alone overflows."""
    return math.isfinite(float(x.sum())) or bool(torch.isfinite(x).all())
