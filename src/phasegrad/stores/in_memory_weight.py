"""A weight that lives on devices and is trained there.

The parameter that a layer registers holds what the devices stand for. It never gets a dense gradient: the backward
pass stages inputs and output gradients, and :class:`phasegrad.optim.AnalogSGD` turns them into pulses.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from phasegrad.crossbar.patches import Patches
from phasegrad.crossbar.streams import draw_seed
from phasegrad.ops.pulses import SAMPLES_PER_BLOCK
from phasegrad.stores.analog_weight import AnalogWeight
from phasegrad.stores.layout import OUTPUTS_FIRST, Layout

_ADVICE = (
    "This weight lives on devices, which take pulses and no additions. Train it with "
    "phasegrad.optim.AnalogSGD(net.parameters(), lr=...), which trains the digital parameters beside it too"
)


_AROUND = (
    "Clip the other parameters alone, [p for p in net.parameters() if not isinstance(p, phasegrad.nn.InMemoryWeight)]; "
    "for mixed precision use bfloat16, which needs no GradScaler"
)

_MAX_UNFOLDED = 1 << 20  # numbers that are unfolded at once, unless one block of samples has more


class Samples(NamedTuple):
    """What one backward pass through one layer leaves for the update."""

    x: Tensor
    """Inputs ``[samples, in]``, or a convolution's images ``[batch, channels, ...]``."""
    d: Tensor
    """Gradients of the outputs, ``[samples, out]`` or ``[batch, channels, ...]``."""
    patches: Patches | None = None
    """How images are samples; ``None`` where each row is one."""

    @property
    def number(self) -> int:
        """How many samples these are."""
        return len(self.x) if self.patches is None else self.patches.number(self.d)

    def take(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Some of them: ``[last - first, in]`` and ``[last - first, out]``."""
        if self.patches is None:
            return self.x[first:last], self.d[first:last]
        return self.patches.take(self.x, self.d, first, last)


@final
class Staged:
    """What backward passes leave for the update: inputs and output gradients, in place of a gradient.

    Attributes:
        samples: what each pass left, in the order of the passes.
    """

    def __init__(self) -> None:
        self.samples: list[Samples] = []

    def zero_(self) -> None:
        """Forget the samples, as ``zero_grad(set_to_none=False)`` asks."""
        self.samples.clear()

    def detach_(self) -> Staged:
        """Itself: nothing here is recorded."""
        return self

    def requires_grad_(self, requires_grad: bool = False) -> Staged:
        """Itself."""
        return self

    grad_fn = None

    def __repr__(self) -> str:
        """What is staged, and what to do: torch shows it where clipping meets no tensor."""
        return f"<samples of {len(self.samples)} backward passes, and no dense gradient. {_ADVICE}. {_AROUND}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuntimeError(
            f"an in-memory weight has no dense gradient, so .grad.{name} does not exist. {_ADVICE}. {_AROUND}. Call "
            "zero_grad before you move, cast or compile a net that has samples staged"
        )


@final
class InMemoryWeight(nn.Parameter):
    """A parameter whose truth is the state of devices.

    Attributes:
        devices: the devices.
        matrix_layout: how it is a matrix ``[out, in]``.
        grad: what is staged for the next update, or ``None``.
    """

    devices: AnalogWeight
    matrix_layout: Layout
    _staged: Staged | None

    def __new__(cls, data: Tensor, devices: AnalogWeight, layout: Layout = OUTPUTS_FIRST) -> InMemoryWeight:
        """Wrap ``data``, the value that the devices hold now."""
        weight = torch.Tensor._make_subclass(cls, data.detach(), True)
        weight.devices, weight.matrix_layout, weight._staged = devices, layout, None
        weight.register_hook(_refuse_dense)
        return weight

    def __init__(self, data: Tensor, devices: AnalogWeight, layout: Layout = OUTPUTS_FIRST) -> None:
        pass

    @property
    def grad(self) -> Staged | None:
        """What is staged."""
        return self._staged

    @grad.setter
    def grad(self, value: None) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        if value is not None:
            raise RuntimeError(f"an in-memory weight takes no gradient. {_ADVICE}")
        self._staged = None

    def stage(self, x: Tensor, d: Tensor, patches: Patches | None = None) -> None:
        """Keep the samples of a backward pass for the next update; see :class:`Samples`."""
        if self._staged is None:
            self._staged = Staged()
        self._staged.samples.append(Samples(x, d, patches))

    def exchange(self, samples: list[Samples] | None) -> list[Samples] | None:
        """Stage other samples, or none, in place of those that are; returns these."""
        before, self._staged = self._staged, None
        if samples is not None:
            self._staged = Staged()
            self._staged.samples = samples
        return None if before is None else before.samples

    def staged(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All samples that are staged, part after part: ``[samples, in]`` and ``[samples, out]``.

        Images are unfolded here, a part at a time. Where the parts end does not show in an update: each but the last is
        a multiple of the samples whose trains are made together.
        """
        assert self._staged is not None
        samples = self._staged.samples
        if len(samples) == 1 and samples[0].patches is None:
            yield samples[0].x, samples[0].d
            return
        numbers = sum(self.matrix_size)  # of one sample
        size = SAMPLES_PER_BLOCK * max(1, _MAX_UNFOLDED // (SAMPLES_PER_BLOCK * numbers))
        for first in range(0, sum(s.number for s in samples), size):
            yield _part(samples, first, first + size)

    def read(self, seed: Tensor | None = None) -> Tensor:
        """The weight ``[out, in]`` as one read of the devices sees it, without gradient.

        Args:
            seed: seed of the read; ``None`` to draw one if reads are noisy.
        """
        devices = self.devices
        if not devices.reads_are_noisy:
            return self.matrix_layout.matrix(self.detach())
        seed = draw_seed(self.device) if seed is None else seed
        return devices.read_weight(seed).to(self.dtype)

    @property
    def matrix_size(self) -> tuple[int, int]:
        """Outputs and inputs of the matrix."""
        return self.matrix_layout.size(self.shape)

    @torch.no_grad()
    def apply_pulses(self, pulses: Callable[..., None], *arguments: Any) -> None:
        """Let pulses act on the devices; the value of this parameter follows.

        Args:
            pulses: a function of :mod:`phasegrad.stores.pulsed_weight`.
            arguments: its arguments between the devices, which come first, and the value ``[out, in]``, which comes
                last.
        """
        value = self.matrix_layout.matrix(self.data)
        pulses(self.devices, *arguments, value)
        if value.data_ptr() != self.data_ptr():  # this tensor's layout has no view as a matrix
            self.copy_(self.matrix_layout.weight(value, self.shape))

    def __deepcopy__(self, memo: dict[int, Any]) -> InMemoryWeight:
        """A copy with devices of its own and nothing staged."""
        if id(self) not in memo:
            copied = InMemoryWeight(self.detach().clone(), copy.deepcopy(self.devices, memo), self.matrix_layout)
            memo[id(self)] = copied.requires_grad_(self.requires_grad)
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Value and devices; nothing staged."""
        return _restored, (self.detach(), self.devices, self.requires_grad, self.matrix_layout)


def _part(samples: list[Samples], first: int, last: int) -> tuple[Tensor, Tensor]:
    """Samples by their number in all that is staged."""
    taken, start = [], 0
    for some in samples:
        low, high = max(first - start, 0), min(last - start, some.number)
        if low < high:
            taken.append(some.take(low, high))
        start += some.number
    x, d = zip(*taken, strict=True)
    return (x[0], d[0]) if len(x) == 1 else (torch.cat(x), torch.cat(d))


def _refuse_dense(grad: Tensor | None) -> None:
    """The layer's product gives ``None``; anything else would be lost without a word."""
    if grad is not None:
        raise RuntimeError(
            "an in-memory weight was used outside of its layer, as by a penalty on weights, and got a dense gradient. "
            f"{_ADVICE}. Leave the weight out of the loss, or detach it there"
        )


def _restored(
    data: Tensor, devices: AnalogWeight, requires_grad: bool, layout: Layout = OUTPUTS_FIRST
) -> InMemoryWeight:
    return InMemoryWeight(data, devices, layout).requires_grad_(requires_grad)  # type: ignore[return-value]


def _refuse(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    if getattr(optimizer, "pulses_devices", False):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if isinstance(parameter, InMemoryWeight) and parameter.requires_grad:
                raise RuntimeError(f"{type(optimizer).__name__} cannot step an in-memory weight. {_ADVICE}")


register_optimizer_step_pre_hook(_refuse)
