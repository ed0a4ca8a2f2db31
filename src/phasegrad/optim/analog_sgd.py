"""Stochastic gradient descent by pulses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

from phasegrad.optim.base import PulsedOptimizer
from phasegrad.stores import InMemoryWeight
from phasegrad.stores.pulsed_weight import update


@final
class AnalogSGD(PulsedOptimizer):
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

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    def _pulse(self, weight: InMemoryWeight, group: dict[str, Any]) -> None:
        seed = self._draw_seed(weight, group)
        weight.apply_pulses(update, weight.staged(), float(group["lr"]), seed)
