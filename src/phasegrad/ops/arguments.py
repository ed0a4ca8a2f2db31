"""Arguments of the pulsed ops that belong together, and the flat lists that torch's schemas need.

The reference, the kernels, the checks and the callers pass these tuples. Only ``phasegrad.ops.schema`` and
``flatten`` know the order of the flat arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor


class PulsedState(NamedTuple):
    """Device state that pulses change in place, ``[planes, out, in]`` each."""

    conductance: Tensor
    """float32, any unit."""
    history: Tensor | None
    """History variable of devices whose steps depend on past pulses, float32."""
    pulsed_at: Tensor | None
    """Time of each device's last pulse, float64."""


class TrackedWeight(NamedTuple):
    """A weight that an op keeps equal to ``phasegrad.ops.reference.weighted_sum`` of the devices."""

    weight: Tensor | None
    """``[out, in]``, float32; ``None`` if no weight is tracked."""
    other_planes: Tensor | None
    """Devices that are not pulsed now and belong to the weight too ``[planes, out, in]``."""
    factors: Sequence[float]
    """An offset, then a factor for every plane of devices and for every other plane."""


class TrainRule(NamedTuple):
    """How values become trains of pulses."""

    lr: float
    """Learning rate."""
    dw_min: float
    """Nominal change of the weight per pulse."""
    length: int
    """Slots of a train, at most 31."""
    bl_management: bool
    """Whether a train is only as long as the largest product of a sample needs."""
    update_management: bool
    """Whether firing probabilities are balanced between inputs and outputs."""
    kind: int
    """``STOCHASTIC``, ``DETERMINISTIC`` or ``MEAN_COUNT``."""


class StepLaw(NamedTuple):
    """Which devices are pulsed, and how a pulse changes them."""

    planes: Sequence[int]
    """The plane pulsed where the weight must grow, and where it must shrink. If they differ, each is pulsed only in
    its own growing direction."""
    family: int
    """Which step law."""
    coefficients: Tensor
    """The law's numbers, float32; the first is the relative noise of a step."""


GROUPS = (PulsedState, TrackedWeight, TrainRule, StepLaw)

_ONE = None  # an argument that is in no group
_Group = type[PulsedState] | type[TrackedWeight] | type[TrainRule] | type[StepLaw]
_LAYOUTS: dict[str, tuple[_Group | None, ...]] = {
    "pulse_trains": (_ONE, _ONE, TrainRule, _ONE, _ONE),
    "pulsed_update": (PulsedState, TrackedWeight, _ONE, _ONE, _ONE, TrainRule, _ONE, StepLaw, _ONE, _ONE),
    "pulse_counts": (PulsedState, TrackedWeight, _ONE, _ONE, _ONE, StepLaw, _ONE, _ONE),
    "leak": (_ONE, _ONE, _ONE, TrackedWeight),
}


def flatten(arguments: Iterable[Any]) -> list[Any]:
    """The arguments as an op's schema lists them."""
    flat: list[Any] = []
    for argument in arguments:
        if isinstance(argument, GROUPS):
            flat.extend(argument)
        else:
            flat.append(argument)
    return flat


def flat(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of grouped arguments, as a function of the flat ones of an op's schema."""
    layout = _LAYOUTS.get(name)
    if layout is None:
        return function

    def op(*arguments: Any) -> Any:
        grouped, start = [], 0
        for group in layout:
            if group is None:
                grouped.append(arguments[start])
                start += 1
            else:
                grouped.append(group(*arguments[start : start + len(group._fields)]))
                start += len(group._fields)
        return function(*grouped)

    return op
