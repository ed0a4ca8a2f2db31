"""Digital accumulation of gradients that are sent to the devices as whole pulses."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, final

import torch
from torch import Tensor

from phasegrad.ops.host_reads import waits
from phasegrad.optim.base import PulsedOptimizer, largest_size
from phasegrad.stores import InMemoryWeight
from phasegrad.stores.pulsed_weight import send_counts


@final
class MixedPrecision(PulsedOptimizer):
    """Mixed-precision training (Nandakumar et al., 2020).

    A digital matrix ``chi`` of the size of the weight accumulates ``lr d^T x``. At each step, ``-n`` pulses with
    ``n = trunc(chi / epsilon)`` are sent, and ``chi -= n epsilon``. Devices are pulsed rarely and without verification.

    Args:
        params: parameters or groups, as for any torch optimizer.
        lr: learning rate; schedulers may change it.
        momentum: momentum of the digital parameters.
        epsilon: assumed change of the weight per pulse; ``None`` for the nominal step of each layer's devices.

    Raises:
        ValueError: a rate is negative or not finite, or ``epsilon`` is not finite and above 0.

    References:
        Nandakumar, S. R. et al. Mixed-precision deep learning based on computational memory. Front. Neurosci. 14, 406
        (2020). https://doi.org/10.3389/fnins.2020.00406

    Examples:
        >>> import torch, phasegrad as pg
        >>> net = pg.convert(torch.nn.Sequential(torch.nn.Linear(8, 4)), pg.presets.pcm_pair_training())
        >>> optimizer = MixedPrecision(net.parameters(), lr=0.1)
        >>> net(torch.randn(16, 8)).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self, params: Iterable[Any], lr: float, momentum: float = 0.0, epsilon: float | None = None
    ) -> None:  # fmt: skip
        super().__init__(params, {"lr": lr, "momentum": momentum, "epsilon": epsilon})

    def _check_update(self, weight: InMemoryWeight, group: dict[str, Any]) -> None:
        assert weight.pending is not None
        if waits(weight):
            return  # the update refuses what is far above the limit, so that the host need not wait
        target, epsilon = weight.devices.fast or weight.devices, self._epsilon(weight, group)
        products = sum(s.number * largest_size(s.x) * largest_size(s.d) for s in weight.pending.samples)
        if float(group["lr"]) * products <= epsilon * (target.most_pulses - 2):
            return  # whatever the signs, and with the remainder of chi, which is below epsilon
        chi = self._accumulated(weight, self._chi(weight), float(group["lr"]))
        self._check_pulses(weight, target, largest_size(chi) / epsilon)

    def _epsilon(self, weight: InMemoryWeight, group: dict[str, Any]) -> float:
        return group["epsilon"] or weight.devices.pulse_size

    def _chi(self, weight: InMemoryWeight) -> Tensor:
        state = self.state[weight]
        if "chi" not in state:
            state["chi"] = torch.zeros_like(weight.devices.conductance[0])
        return state["chi"]

    def _pulse(self, weight: InMemoryWeight, group: dict[str, Any]) -> None:
        state, epsilon = self.state[weight], self._epsilon(weight, group)
        chi = self._accumulated(weight, self._chi(weight), float(group["lr"]))
        steps = (chi / epsilon).trunc_()
        counts = steps.neg().to(torch.int32)

        def sent() -> None:
            state["chi"].copy_(chi.sub_(steps, alpha=epsilon))
            weight.grad = None

        weight.apply_pulses(functools.partial(send_counts, sent=sent), counts, self._draw_seed(weight, group))

    def _accumulated(self, weight: InMemoryWeight, chi: Tensor, lr: float) -> Tensor:
        """``chi`` after this step's gradients; the state itself changes when the pulses were sent."""
        total, trained = chi, weight.trained_cells
        for x, d in weight.staged():
            groups = len(chi) // d.shape[1]
            if groups == 1:
                total = torch.addmm(total, d.float().t(), x.float(), alpha=lr)
                continue
            d, x = (v.float().unflatten(0, (-1, groups)).transpose(0, 1) for v in (d, x))  # [groups, samples, ...]
            total = total.unflatten(0, (groups, -1)).baddbmm(d.transpose(1, 2), x, alpha=lr).flatten(0, 1)
        return total if trained is None else torch.where(trained, total, chi)
