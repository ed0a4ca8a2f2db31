"""Stochastic gradient descent with pulses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

from phasegrad.optim.base import PulsedOptimizer
from phasegrad.stores import InMemoryWeight
from phasegrad.stores.pulsed_weight import update


@final
class AnalogSGD(PulsedOptimizer):
    """SGD that pulses in-memory weights, and updates digital parameters as ``torch.optim.SGD`` does.

    For every staged sample, a step sends one pulse train along each word line and one along each bit line of a layer; a
    device is pulsed when the two coincide. The expected update is ``w -= lr d^T x``. No tensor with the size of a dense
    gradient is allocated. Samples accumulate over several backward passes, as gradients do.

    The seed of the pulses of a step is drawn from torch's generator, so ``torch.manual_seed`` determines them. The
    state dicts of net and optimizer, together with torch's random state, resume a run bit for bit.

    Args:
        params: parameters or groups, as for any torch optimizer.
        lr: learning rate; schedulers may change it.
        momentum: momentum of the digital parameters; pulses have none.

    Raises:
        ValueError: a rate is negative or not finite.

    References:
        Gokmen, T. & Vlasov, Y. Acceleration of deep neural network training with resistive cross-point devices: design
        considerations. Front. Neurosci. 10, 333 (2016). https://doi.org/10.3389/fnins.2016.00333

    Examples:
        >>> import torch, phasegrad as pg
        >>> net = pg.convert(torch.nn.Sequential(torch.nn.Linear(8, 4)), pg.presets.soft_bounds_training())
        >>> optimizer = AnalogSGD(net.parameters(), lr=0.1)
        >>> net(torch.randn(16, 8)).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    def _check_hardware(self, weight: InMemoryWeight) -> None:
        fast = weight.devices.hardware.fast
        if fast is not None and fast.transfer is None:
            raise ValueError(
                f"AnalogSGD: fast = {fast} in the hardware of a weight of shape {tuple(weight.shape)} has no transfer, "
                "so no pulse would reach the weight. Use TikiTaka, TikiTakaV2, ChoppedTikiTakaV2 or AGAD, or hardware "
                "with Fast(..., transfer=Transfer(...))"
            )

    def _pulse(self, weight: InMemoryWeight, group: dict[str, Any]) -> None:
        seed = self._draw_seed(weight, group)
        weight.apply_pulses(update, weight.staged(use=True), float(group["lr"]), seed)
