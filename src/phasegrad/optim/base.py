"""The base class of all optimizers that pulse devices."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from phasegrad.crossbar.streams import draw_seed
from phasegrad.ops.finite import all_finite
from phasegrad.ops.host_reads import waits
from phasegrad.ops.pulses import CROSSINGS
from phasegrad.optim.interrupts import deferred_interrupts
from phasegrad.optim.options import check_options, check_rate, checked_parameters
from phasegrad.optim.replicas import broadcast_devices, common_generator, gathered, world_size
from phasegrad.stores import InMemoryWeight
from phasegrad.stores.device_array import DeviceArray
from phasegrad.stores.staged_gradient import Samples
from phasegrad.stores.written_weights import take_writes_of


class PulsedOptimizer(torch.optim.Optimizer):
    """Optimizer that updates digital parameters as ``torch.optim.SGD`` does; subclasses pulse in-memory weights.

    If torch has a process group when the optimizer is created, in-memory weights are replicas. All processes copy the
    devices of rank 0. At each step they gather the samples of all processes and draw pulses from a seed of rank 0, so
    that the replicas remain identical bit for bit. A parameter group with ``replicated=False`` is excluded from this.

    Args:
        params: parameters or groups, as for any torch optimizer.
        defaults: default options of a group, with ``lr`` and ``momentum``.

    Raises:
        ValueError: a rate is negative or not finite, or no parameter is an in-memory weight.
    """

    pulses_devices = True

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        caller = type(self).__name__
        given = checked_parameters(caller, params)
        options = {**defaults, **check_options(caller, defaults), "replicated": True}
        self._generator: torch.Generator | None = None
        self._world_size = world_size()
        super().__init__(given, options)
        self._require_in_memory_weight()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group if its hardware suits the optimizer, and copy the devices of rank 0 if it is replicated."""
        param_group.update(check_options(type(self).__name__, param_group))
        super().add_param_group(param_group)
        try:
            for parameter in self.param_groups[-1]["params"]:
                if isinstance(parameter, InMemoryWeight):
                    self._check_hardware(parameter)
        except ValueError:
            self.param_groups.pop()
            raise
        broadcast_devices(self._replicas(self.param_groups[-1:]))

    def _require_in_memory_weight(self) -> None:
        """Raise unless there is a weight to pulse: an optimizer of digital parameters alone would pulse nothing."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        if not any(isinstance(parameter, InMemoryWeight) for parameter in parameters):
            name = type(self).__name__
            raise ValueError(
                f"{name}: none of the {len(parameters)} parameter(s) is an in-memory weight, so nothing would be "
                f"pulsed. convert copies the model: pass the parameters of the converted net, {name}(net.parameters(), "
                "...), whose hardware has pulses, such as pg.presets.pcm_capacitor_training(), or use an optimizer of "
                "torch for digital weights"
            )

    def _check_hardware(self, weight: InMemoryWeight) -> None:
        """Raise ``ValueError`` if the optimizer cannot train the hardware of a weight."""

    @abstractmethod
    def _pulse(self, weight: InMemoryWeight, group: dict[str, Any]) -> None:
        """Convert the staged samples of a weight to pulses; ``weight.staged(use=True)`` marks each block as used."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters once.

        A step does nothing to parameters without a gradient: no pulse, transfer, leak or refresh. The staged samples of
        an in-memory weight are used up: after the step its ``grad`` is ``None``. An exception or Ctrl-C leaves each
        weight either updated or untouched with its samples; the next step continues there.

        On CUDA nothing waits for the device: a weight whose samples are not finite, or whose counts are far above the
        limit, is left as it is by its own update, and a later step raises.

        Args:
            closure: function that evaluates the model again and returns the loss, as in torch.

        Raises:
            ValueError: the learning rate, an input or a gradient is not finite, or a device would receive more
                counted pulses than cross its conductance window several times; nothing was changed.
            RuntimeError: the number of processes has changed since the optimizer was created.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._check_world_size()
        take_writes_of(self._weights(self.param_groups))
        if replicas := self._replicas(self.param_groups):
            self._generator = common_generator(replicas[0].device)
            with gathered(replicas):
                self._step()
        else:
            self._step()
        return loss

    def _check_world_size(self) -> None:
        if world_size() != self._world_size:
            raise RuntimeError(
                f"{type(self).__name__}: world size = {world_size()}, but it was {self._world_size} when the optimizer "
                "was created. Create the optimizer after torch.distributed.init_process_group, so that all processes "
                "copy the devices of rank 0"
            )

    def _step(self) -> None:
        self._check()
        self._update_all()

    def _update_all(self) -> None:
        weights = [(p, g) for g in self.param_groups for p in g["params"] if isinstance(p, InMemoryWeight)]
        with deferred_interrupts() as deliver:
            for weight, group in weights:
                if weight.pending is not None:
                    self._update(weight, group)
                    deliver()
            # Last and together, because their gradients remain: a step that was interrupted can be called again.
            for group in self.param_groups:
                digital = [p for p in group["params"] if not isinstance(p, InMemoryWeight) and p.grad is not None]
                if digital:
                    directions = [self._direction(parameter, group["momentum"]) for parameter in digital]
                    torch._foreach_add_(digital, directions, alpha=-float(group["lr"]))

    def _update(self, weight: InMemoryWeight, group: dict[str, Any]) -> None:
        """Convert the staged samples of a weight to pulses, and discard them."""
        if weight.pending is not None and weight.pending.samples:
            self._pulse(weight, group)
        weight.grad = None

    def _replicas(self, groups: list[dict[str, Any]]) -> list[InMemoryWeight]:
        """The in-memory weights of groups that all processes replicate."""
        return [] if world_size() == 1 else self._weights(g for g in groups if g.get("replicated", True))

    def _weights(self, groups: Iterable[dict[str, Any]]) -> list[InMemoryWeight]:
        return [parameter for group in groups for parameter in group["params"] if isinstance(parameter, InMemoryWeight)]

    def _draw_seed(self, weight: InMemoryWeight, group: dict[str, Any]) -> Tensor:
        """Draw a seed of pulses from torch's global generator, or from the common one for replicas."""
        if self._generator is None or not group.get("replicated", True):
            return draw_seed(weight.device)
        return torch.randint(-(2**63), 2**63 - 1, (1,), generator=self._generator).to(weight.device)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # type: ignore[override]
        """Load as torch does, but restore the state of in-memory weights bit for bit.

        Torch would round it to the dtype of the weight, which may have a lower precision than the devices.
        """
        super().load_state_dict(state_dict)
        numbers = (number for group in state_dict["param_groups"] for number in group["params"])
        for group in self.param_groups:
            for parameter in group["params"]:
                saved_state = state_dict["state"].get(next(numbers), {})
                if isinstance(parameter, InMemoryWeight):
                    tensors = {k: v for k, v in saved_state.items() if isinstance(v, Tensor)}
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

    def _check_pulses(self, weight: InMemoryWeight, array: DeviceArray, largest: float) -> None:
        """Raise if an update would send more counted pulses to a device than cross its window several times."""
        if largest <= array.most_pulses:
            return
        raise ValueError(
            f"{type(self).__name__}: the step would send {largest:.4g} pulses to one device of a weight of shape "
            f"{tuple(weight.shape)}; the limit is {array.most_pulses}, which cross its conductance window {CROSSINGS} "
            "times. Nothing was changed. Check the scale of the loss, lower the learning rate, or clip the gradients "
            "that enter the layer, and call zero_grad before the next step"
        )

    def _check_update(self, weight: InMemoryWeight, group: dict[str, Any]) -> None:
        """Raise ``ValueError`` if the staged samples of a weight, all of them finite, cannot be sent as pulses."""

    def _check(self) -> None:
        """Check all rates and staged samples before any parameter is changed."""
        staged: list[tuple[InMemoryWeight, dict[str, Any], Samples]] = []
        for group in self.param_groups:
            check_rate(type(self).__name__, "learning rate lr", group["lr"])
            for parameter in group["params"]:
                if isinstance(parameter, InMemoryWeight) and parameter.pending is not None:
                    staged.extend((parameter, group, sample) for sample in parameter.pending.samples)
        if not all_finite([tensor for _, _, (x, d, _) in staged for tensor in (x, d) if not waits(tensor)]):
            raise ValueError(
                f"{type(self).__name__}: a staged input or gradient is not finite, so no device was pulsed. Check "
                "whether the loss has diverged, lower the learning rate, and call zero_grad before the next step"
            )
        for parameter, group in {id(parameter): (parameter, group) for parameter, group, _ in staged}.values():
            self._check_update(parameter, group)


def _has_gradient(parameter: Tensor) -> bool:
    gradient = parameter.pending if isinstance(parameter, InMemoryWeight) else parameter.grad
    return gradient is not None


def largest_size(values: Tensor) -> float:
    """The largest magnitude, 0 without values; NaN if one is NaN."""
    if not values.numel():
        return 0.0
    low, high = values.aminmax()  # both are NaN if one value is
    return max(-float(low), float(high))
