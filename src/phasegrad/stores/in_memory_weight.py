"""A weight that is stored on devices and trained in memory.

The parameter that a layer registers is a copy of the devices' weight. It never has a dense gradient: the backward pass
stages inputs and output gradients, which [`AnalogSGD`][phasegrad.optim.AnalogSGD] converts to pulses.
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

_TRAINING_ADVICE = (
    "This weight is stored on devices, which only pulses can change. Train it with "
    "phasegrad.optim.AnalogSGD(net.parameters(), lr=...), which trains digital parameters as well"
)

_CLIPPING_ADVICE = (
    "Clip only the other parameters, [p for p in net.parameters() if not isinstance(p, phasegrad.nn.InMemoryWeight)]; "
    "for mixed precision use bfloat16, which needs no GradScaler"
)

_MAX_UNFOLDED = 1 << 20
"""Largest number of values that are unfolded at once, unless a single block of samples has more."""


class Samples(NamedTuple):
    """The samples that one backward pass through one layer stages for the update."""

    x: Tensor
    """Inputs ``[samples, in]``, or a convolution's images ``[batch, channels, ...]``."""
    d: Tensor
    """Gradients of the outputs, ``[samples, out]`` or ``[batch, channels, ...]``."""
    patches: Patches | None = None
    """Division of images into samples; ``None`` if each row is one sample."""

    @property
    def number(self) -> int:
        """Number of samples."""
        return len(self.x) if self.patches is None else self.patches.number(self.d)

    def select(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Samples ``first`` to ``last``: ``[last - first, in]`` and ``[last - first, out]``."""
        if self.patches is None:
            return self.x[first:last], self.d[first:last]
        return self.patches.select(self.x, self.d, first, last)


@final
class Staged:
    """The inputs and output gradients that backward passes stage for the update, in place of a gradient.

    Attributes:
        samples: the samples of each pass, in the order of the passes.
    """

    def __init__(self) -> None:
        self.samples: list[Samples] = []

    def zero_(self) -> None:
        """Discard the samples, for ``zero_grad(set_to_none=False)``."""
        self.samples.clear()

    def detach_(self) -> Staged:
        """Return ``self``: autograd records nothing here."""
        return self

    def requires_grad_(self, requires_grad: bool = False) -> Staged:
        """Return ``self``."""
        return self

    grad_fn = None

    def __repr__(self) -> str:
        """The staged samples, with advice, because torch shows this when it fails to clip the gradient."""
        advice = f"{_TRAINING_ADVICE}. {_CLIPPING_ADVICE}"
        return f"<samples of {len(self.samples)} backward passes, no dense gradient. {advice}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuntimeError(
            f"an in-memory weight has no dense gradient, so .grad.{name} does not exist. {_TRAINING_ADVICE}. "
            f"{_CLIPPING_ADVICE}. Call zero_grad before you move, cast or compile a net with staged samples"
        )


@final
class InMemoryWeight(nn.Parameter):
    """A parameter whose value is a copy of the weight that its devices store.

    Attributes:
        devices: the devices.
        matrix_layout: layout that converts the parameter to a matrix ``[out, in]``.
        grad: samples staged for the next update, or ``None``.
        successor: the parameter that has replaced this one, for the other layers that are tied to it; or ``None``.
    """

    devices: AnalogWeight
    matrix_layout: Layout
    successor: InMemoryWeight | None
    _staged: Staged | None

    def __new__(cls, data: Tensor, devices: AnalogWeight, layout: Layout = OUTPUTS_FIRST) -> InMemoryWeight:
        """Wrap ``data``, the present value of the devices."""
        weight = torch.Tensor._make_subclass(cls, data.detach(), True)
        weight.devices, weight.matrix_layout, weight._staged = devices, layout, None
        weight.successor = None
        weight.register_hook(_refuse_dense)
        return weight

    def __init__(self, data: Tensor, devices: AnalogWeight, layout: Layout = OUTPUTS_FIRST) -> None:
        pass

    @property
    def grad(self) -> Staged | None:
        """The staged samples, or ``None``."""
        return self._staged

    @grad.setter
    def grad(self, value: None) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        if value is not None:
            raise RuntimeError(
                f"an in-memory weight has no dense gradient, so only None can be assigned to .grad. {_TRAINING_ADVICE}"
            )
        self._staged = None

    def stage(self, x: Tensor, d: Tensor, patches: Patches | None = None) -> None:
        """Stage the samples of a backward pass for the next update; see ``Samples``."""
        if self._staged is None:
            self._staged = Staged()
        self._staged.samples.append(Samples(x, d, patches))

    def replace_staged(self, samples: list[Samples] | None) -> list[Samples] | None:
        """Replace the staged samples with others, or with none, and return them."""
        before, self._staged = self._staged, None
        if samples is not None:
            self._staged = Staged()
            self._staged.samples = samples
        return None if before is None else before.samples

    def staged(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All staged samples, block by block: ``[samples, in]`` and ``[samples, out]``.

        Images are unfolded here, one block at a time. The block size does not change an update, because each block but
        the last is a multiple of ``SAMPLES_PER_BLOCK``, the number of samples whose pulse trains are drawn together.
        """
        assert self._staged is not None
        samples = self._staged.samples
        if len(samples) == 1 and samples[0].patches is None:
            yield samples[0].x, samples[0].d
            return
        values = sum(self.matrix_size)  # per sample
        size = SAMPLES_PER_BLOCK * max(1, _MAX_UNFOLDED // (SAMPLES_PER_BLOCK * values))
        for first in range(0, sum(s.number for s in samples), size):
            yield _block(samples, first, first + size)

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
        """Send pulses to the devices and update the value of this parameter.

        Args:
            pulses: a function of ``phasegrad.stores.pulsed_weight``, called as ``pulses(devices, *arguments, value)``.
            arguments: its arguments between the devices and the value ``[out, in]``.
        """
        value = self.matrix_layout.matrix(self.data)
        pulses(self.devices, *arguments, value)
        if value.data_ptr() != self.data_ptr():  # the matrix is a copy: write it back
            self.copy_(self.matrix_layout.weight(value, self.shape))

    def __deepcopy__(self, memo: dict[int, Any]) -> InMemoryWeight:
        """A copy with copied devices and no staged samples."""
        if id(self) not in memo:
            copied = InMemoryWeight(self.detach().clone(), copy.deepcopy(self.devices, memo), self.matrix_layout)
            memo[id(self)] = copied.requires_grad_(self.requires_grad)
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Value, devices and layout, without staged samples."""
        return _restored, (self.detach(), self.devices, self.requires_grad, self.matrix_layout)


def _block(samples: list[Samples], first: int, last: int) -> tuple[Tensor, Tensor]:
    """Samples ``first`` to ``last`` of the samples of all passes."""
    parts, start = [], 0
    for of_pass in samples:
        low, high = max(first - start, 0), min(last - start, of_pass.number)
        if low < high:
            parts.append(of_pass.select(low, high))
        start += of_pass.number
    x, d = zip(*parts, strict=True)
    return (x[0], d[0]) if len(x) == 1 else (torch.cat(x), torch.cat(d))


def _refuse_dense(grad: Tensor | None) -> None:
    """Raise on a dense gradient, which would be lost silently; the layer's product returns ``None``."""
    if grad is not None:
        raise RuntimeError(
            "an in-memory weight was used outside its layer, for example in a weight penalty, and received a dense "
            "gradient. "
            f"{_TRAINING_ADVICE}. Leave the weight out of the loss, or detach it there"
        )


def _restored(
    data: Tensor, devices: AnalogWeight, requires_grad: bool, layout: Layout = OUTPUTS_FIRST
) -> InMemoryWeight:
    return InMemoryWeight(data, devices, layout).requires_grad_(requires_grad)  # type: ignore[return-value]


def _refuse_other_optimizers(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    if getattr(optimizer, "pulses_devices", False):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if isinstance(parameter, InMemoryWeight) and parameter.requires_grad:
                raise RuntimeError(f"{type(optimizer).__name__} cannot step an in-memory weight. {_TRAINING_ADVICE}")


register_optimizer_step_pre_hook(_refuse_other_optimizers)
