"""Stochastic gradient descent by pulses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, final

import torch
from torch import Tensor

from phasegrad.crossbar.streams import draw_seed
from phasegrad.nn.in_memory import InMemoryWeight


@final
class AnalogSGD(torch.optim.Optimizer):
    """SGD whose in-memory weights are pulsed, and whose digital parameters are added to, as by ``torch.optim.SGD``.

    Each step sends, for every staged sample, one train of pulses along every input line and one along every output
    line of a layer; where they coincide, devices step (Gokmen and Vlasov, 2016). Nothing of the size of a dense
    gradient is made. A gradient accumulates over several backward passes as elsewhere, sample after sample.

    The seed of a step's pulses is drawn from torch's generator, so ``torch.manual_seed`` fixes them; together with the
    net's state dict, the optimizer's, and torch's random state, a run can be resumed to the bit.

    Args:
        params: parameters or groups, as for any torch optimizer.
        lr: learning rate; schedulers may change it.
        momentum: of the digital parameters; pulses have none.

    Raises:
        ValueError: a rate is negative or not finite.

    Examples:
        >>> import torch, phasegrad as pg
        >>> net = pg.convert(torch.nn.Sequential(torch.nn.Linear(8, 4)), pg.presets.soft_bounds_training())
        >>> optimizer = AnalogSGD(net.parameters(), lr=0.1)
        >>> net(torch.randn(16, 8)).square().mean().backward()
        >>> optimizer.step()
    """

    pulses_devices = True

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.0) -> None:
        for name, value in (("lr", lr), ("momentum", momentum)):
            if not (math.isfinite(value) and value >= 0.0):
                raise ValueError(f"AnalogSGD: {name} = {value}; it must be finite and not negative")
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Pulse and add once.

        Args:
            closure: reevaluates the model and returns the loss, as in torch.

        Raises:
            ValueError: the learning rate, an input or a gradient is not finite; nothing was changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._check()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if isinstance(parameter, InMemoryWeight):
                    parameter.update(float(group["lr"]), draw_seed(parameter.device))
                else:
                    parameter.add_(self._direction(parameter, group["momentum"]), alpha=-float(group["lr"]))
        return loss

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

    def _check(self) -> None:
        """Everything is looked at before anything moves."""
        for group in self.param_groups:
            lr = float(group["lr"])
            if not (math.isfinite(lr) and lr >= 0.0):
                raise ValueError(f"AnalogSGD: the learning rate is {lr}; it must be finite and not negative")
            for parameter in group["params"]:
                if isinstance(parameter, InMemoryWeight) and parameter.grad is not None:
                    for x, d in parameter.grad.samples:
                        if not bool(torch.isfinite(x).all()) or not bool(torch.isfinite(d).all()):
                            raise ValueError(
                                "AnalogSGD: a staged input or gradient is not finite, so nothing was pulsed; look for "
                                "a diverged loss, lower the learning rate, and call zero_grad before going on"
                            )
