"""Pulsed updates of the same devices, step after step.

The checks of a weight's devices, their addresses, and the conversion of all arguments for C take longer than the update
of a small layer. Nothing of this changes from one step to the next, so it is done once, and again only after a tensor
was replaced or its memory has moved.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from phasegrad.ops.arguments import PulsedState, StepLaw, TrackedWeight, TrainRule
from phasegrad.ops.checks.devices import check_rule
from phasegrad.ops.cpu.calls import all_floats, floats_of, optional
from phasegrad.ops.cpu.devices import update_scratch
from phasegrad.ops.direct import bypasses, call, is_plain
from phasegrad.ops.native import library
from phasegrad.ops.trains import check_finite

_checked_rule = functools.lru_cache(maxsize=256)(check_rule)


@final
class RepeatedUpdate:
    """The op ``pulsed_update``, for one array of devices. It keeps nothing when it is copied or pickled."""

    def __init__(self) -> None:
        self._located: _Located | None = None  # replaced as a whole

    def __call__(
        self, state: PulsedState, tracked: TrackedWeight, parameters: Tensor, x: Tensor, d: Tensor, rule: TrainRule,
        now: float, law: StepLaw, seed: Tensor, offset: int,
    ) -> None:  # fmt: skip
        """Apply the op, with its arguments."""
        located = self._located
        if located is not None and located.serves(state, tracked, parameters, x, d, law, seed) and bypasses():
            _checked_rule(*rule)
            located.update(x, d, rule, now, law, seed, offset)
            return
        call("pulsed_update", state, tracked, parameters, x, d, rule, now, law, seed, offset)
        self._located = _Located.of(state, tracked, parameters, law) if library is not None else None

    def __deepcopy__(self, memo: dict[int, Any]) -> RepeatedUpdate:
        return RepeatedUpdate()

    def __reduce__(self) -> Any:
        return RepeatedUpdate, ()


class _Located(NamedTuple):
    """Tensors that the op has checked, and the arguments of the kernel that follow from them."""

    tensors: tuple[Tensor | None, ...]
    """The devices' state, parameters, and coefficients, then the other planes of the tracked weight."""
    addresses: list[int | None]
    """Those of ``tensors``, and that of the tracked weight."""
    factors: Any
    sizes: tuple[int, int]
    first: tuple[Any, ...]
    """Arguments of the kernel before the inputs."""
    shape: tuple[int, bool]
    """Number of planes, and whether all devices have the same parameters."""
    last: tuple[Any, ...]
    """Arguments after the family of the step law."""

    @classmethod
    def of(cls, state: PulsedState, tracked: TrackedWeight, parameters: Tensor, law: StepLaw) -> _Located | None:
        """Locate the arguments of an update; ``None`` if the kernel does not update them in place."""
        tensors = (*state, parameters, law.coefficients, tracked.other_planes)
        known = [t for t in (*tensors, tracked.weight) if t is not None]
        floats = [t for t in known if t is not state.pulsed_at]
        if not all_floats(*floats) or not all(is_plain(t) and t.is_contiguous() for t in known):
            return None
        others = tracked.other_planes
        addresses = optional(*tensors, tracked.weight)
        *of_state, of_parameters, of_coefficients, of_others, of_weight = addresses
        shape = state.conductance.shape
        return cls(
            tensors, addresses, tracked.factors, (shape[1], shape[2]), (*of_state, of_parameters),
            (shape[0], parameters[0].numel() == 1),
            (of_coefficients, of_weight, of_others, 0 if others is None else len(others), floats_of(tracked.factors)),
        )  # fmt: skip

    def serves(
        self, state: PulsedState, tracked: TrackedWeight, parameters: Tensor, x: Tensor, d: Tensor, law: StepLaw,
        seed: Tensor,
    ) -> bool:  # fmt: skip
        """Whether an update has these devices, and samples of all outputs as the kernel reads them."""
        conductance, history, pulsed_at = state
        weight, others, factors = tracked
        a, b, c, e, f, g = self.tensors
        return (
            a is conductance and b is history and c is pulsed_at and e is parameters and f is law.coefficients
            and g is others and self.factors is factors
            and (weight is None or (weight.shape == self.sizes and is_plain(weight)))
            and self.addresses == optional(*self.tensors, weight)
            and x.shape[1:] == self.sizes[1:] and d.shape[1:] == self.sizes[:1] and len(x) == len(d)
            and x.dtype is d.dtype is torch.float32 and seed.dtype is torch.int64 and seed.numel() == 1
            and x.is_contiguous() and d.is_contiguous()
            and is_plain(x) and is_plain(d) and is_plain(seed)
        )  # fmt: skip

    def update(
        self, x: Tensor, d: Tensor, rule: TrainRule, now: float, law: StepLaw, seed: Tensor, offset: int
    ) -> None:
        """Run the kernel."""
        assert library is not None
        refused, threads, sizes = ctypes.c_int32(), torch.get_num_threads(), (x.shape[0], *self.sizes, 1)
        scratch = update_scratch(sizes, threads)
        library.pg_pulsed_update(
            *self.first, x.data_ptr(), d.data_ptr(), ctypes.byref(refused), scratch.data_ptr(), *sizes, *rule,
            *self.shape, now, *law.planes, law.family, *self.last, int(seed), offset, threads,
        )  # fmt: skip
        if refused.value:
            check_finite(x, d)
