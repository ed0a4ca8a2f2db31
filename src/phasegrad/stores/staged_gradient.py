"""The gradient of an in-memory weight: samples of backward passes instead of a dense tensor.

``Staged`` holds the samples. ``StagedGradient`` shows it to torch as a tensor: to hooks, as the result of
``torch.autograd.grad`` with respect to the weight, and as ``weight.grad``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from phasegrad.crossbar.patches import Patches
from phasegrad.ops.pulses import SAMPLES_PER_BLOCK, of_all_groups
from phasegrad.stores.layout import Layout

TRAINING_ADVICE = (
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

    @property
    def groups(self) -> int:
        """Groups of outputs; sample ``i`` has gradients of those of group ``i`` modulo this number."""
        return 1 if self.patches is None else self.patches.groups

    def select(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Samples ``first`` to ``last``: ``[last - first, in]`` and ``[last - first, out / groups]``."""
        if self.patches is None:
            return self.x[first:last], self.d[first:last]
        return self.patches.select(self.x, self.d, first, last)


@final
class Staged:
    """The inputs and output gradients that backward passes stage for the update, in place of a gradient.

    Attributes:
        samples: the samples of each pass, in the order of the passes.
        mask: bool tensor in the shape of the weight, false where the gradient is 0; ``None`` without a mask.
    """

    def __init__(
        self, samples: Sequence[Samples], shape: torch.Size, layout: Layout, mask: Tensor | None = None
    ) -> None:
        self.samples = list(samples)
        self.mask = mask
        self._shape, self._layout = shape, layout
        self._used = 0

    @property
    def number(self) -> int:
        """Number of samples that are not used yet."""
        return sum(s.number for s in self.samples) - self._used

    @property
    def partly_used(self) -> bool:
        """Whether an update that was not completed has used some of the samples, or all."""
        return self._used > 0 or not self.samples

    def blocks(self, *, use: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """All samples, block by block: ``[samples, in]`` and ``[samples, out / groups]``.

        Images are unfolded here, one block at a time. The block size does not change an update, because each block but
        the last is a multiple of ``SAMPLES_PER_BLOCK``, the number of samples whose pulse trains are drawn together,
        and of the number of groups, so that every block starts with the first group.

        Args:
            use: whether to discard each block once the caller asks for the next, so that an update that an exception
                stops never sends the same pulses twice.
        """
        samples = self.samples
        if len(samples) == 1 and samples[0].patches is None and self._used == 0:
            yield samples[0].x, samples[0].d
        else:
            yield from self._unfolded_blocks(use)
        if use:
            self.zero_()

    def _unfolded_blocks(self, use: bool) -> Iterator[tuple[Tensor, Tensor]]:
        if not self.samples:
            return
        (out, inputs), groups = self._layout.size(self._shape), {s.groups for s in self.samples}
        common = groups.pop() if len(groups) == 1 else 1
        values = inputs + out // common  # per sample
        size, most = math.lcm(SAMPLES_PER_BLOCK, common), _MAX_UNFOLDED
        if common > 1:  # whole images are unfolded faster
            whole = math.lcm(size, self.samples[0].number // max(1, len(self.samples[0].x)))
            size, most = (whole, most) if whole * values <= 4 * most else (size, 4 * most)
        size *= max(1, most // (size * values))
        for first in range(self._used, self._used + self.number, size):
            yield _block(self.samples, first, first + size, common)
            if use:
                self._used = first + size

    def to_dense(self) -> Tensor:
        """The gradient as a dense tensor in the shape of the weight, for inspection; it is computed anew each time."""
        total: Tensor | None = None
        for x, d in self.blocks():
            d = of_all_groups(d, self._layout.size(self._shape)[0] // d.shape[1])
            product = d.t().to(x.dtype) @ x
            total = product if total is None else total + product
        assert total is not None
        dense = self._layout.weight(total, self._shape)
        return dense if self.mask is None else torch.where(self.mask, dense, torch.zeros_like(dense))

    def plus(self, other: Staged) -> Staged:
        """The sum of two gradients: the samples of both.

        Raises:
            RuntimeError: their masks differ.
        """
        if not other.samples:
            return self
        if not self.samples:
            return other
        if not same_mask(self.mask, other.mask):
            raise RuntimeError(
                "the backward passes of one step of an in-memory weight have different masks, but one pulse train "
                "serves all rows and columns, so a step has one mask. Use the same mask in every pass, set "
                "weight.mask, or call optimizer.step() and zero_grad() between passes"
            )
        merged = Staged([*self.samples, *other.samples], self._shape, self._layout, self.mask)
        merged._used = self._used
        return merged

    def scaled(self, factor: float) -> Staged:
        """The gradient times a number."""
        samples = self.samples if factor == 1.0 else [s._replace(d=s.d * factor) for s in self.samples]
        return self._with(samples, self.mask)

    def masked(self, mask: Tensor) -> Staged:
        """The gradient where ``mask`` is true, and 0 elsewhere."""
        return self._with(self.samples, mask if self.mask is None else self.mask & mask)

    def empty(self) -> Staged:
        """The gradient 0 of the same weight."""
        return Staged((), self._shape, self._layout)

    def _with(self, samples: Sequence[Samples], mask: Tensor | None) -> Staged:
        staged = Staged(samples, self._shape, self._layout, mask)
        staged._used = self._used
        return staged

    def zero_(self) -> None:
        """Discard the samples."""
        self.samples.clear()
        self._used = 0

    def assign(self, other: Staged) -> None:
        """Take over the samples and the mask of another gradient."""
        self.samples, self.mask, self._used = list(other.samples), other.mask, other._used


def _block(samples: list[Samples], first: int, last: int, groups: int) -> tuple[Tensor, Tensor]:
    """Samples ``first`` to ``last`` of the samples of all passes, with gradients of the outputs of one group."""
    parts, start = [], 0
    for of_pass in samples:
        low, high = max(first - start, 0), min(last - start, of_pass.number)
        if low < high:
            x, d = of_pass.select(low, high)
            parts.append((x, d if of_pass.groups == groups else of_all_groups(d, of_pass.groups, low)))
        start += of_pass.number
    x, d = zip(*parts, strict=True)
    return (x[0], d[0]) if len(x) == 1 else (torch.cat(x), torch.cat(d))


def same_mask(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two gradients have the same mask."""
    return a is b or (a is not None and b is not None and torch.equal(a, b))


@final
class StagedGradient(Tensor):
    """A ``Staged`` in the form of a tensor, with shape and dtype of the weight and no storage.

    Sums, products with a number and products with a mask (any tensor that is 0 in some places and one number in all
    others) are defined. All other operations need a dense tensor and raise, before they change anything: functions that
    process the gradients of all parameters, as clipping and the GradScaler do, first sort them by device, so
    ``weight.grad`` does not tell its device.

    Attributes:
        staged: the samples.
    """

    staged: Staged
    _place: torch.device

    @staticmethod
    def __new__(
        cls, staged: Staged, shape: torch.Size, dtype: torch.dtype, device: torch.device, *, shown: bool = False
    ) -> StagedGradient:
        """Wrap samples as the gradient of a weight; ``shown``: as the attribute ``grad``."""
        options = {"dtype": dtype, "device": device, "dispatch_device": shown}
        gradient = Tensor._make_wrapper_subclass(cls, shape, **options)  # type: ignore[attr-defined]
        gradient.staged, gradient._place = staged, device
        return gradient

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Apply an operation to the samples, or raise if it needs a dense gradient."""
        name = func._schema.name.removeprefix("aten::").removeprefix("prim::")
        operation = _OPERATIONS.get(name)
        result = None if operation is None else operation(*args, **(kwargs or {}))
        if result is None:
            raise RuntimeError(
                f"{name}: the gradient of an in-memory weight (phasegrad.nn.InMemoryWeight) consists of samples for "
                "pulse trains, without a dense tensor; grad.to_dense() computes one for inspection. A hook may return "
                "the gradient times a number, or times a mask that is 0 for the weights to keep and one number for all "
                f"others; weight.mask keeps weights permanently. {TRAINING_ADVICE}. {_CLIPPING_ADVICE}. Call zero_grad "
                "before you move, cast or compile a net with staged samples"
            )
        return result

    @property
    def samples(self) -> list[Samples]:
        """The samples of each backward pass, in the order of the passes."""
        return self.staged.samples

    @property
    def mask(self) -> Tensor | None:
        """Where the gradient is not masked, or ``None``."""
        return self.staged.mask

    def to_dense(self) -> Tensor:  # type: ignore[override]
        """The gradient as a dense tensor in the shape of the weight, for inspection; it is computed anew each time."""
        return self.staged.to_dense()

    def with_staged(self, staged: Staged) -> StagedGradient:
        """Other samples as the gradient of the same weight."""
        return StagedGradient(staged, self.shape, self.dtype, self._place)

    def __repr__(self, *_: Any, **__: Any) -> str:  # type: ignore[override]
        return f"<gradient of an in-memory weight, shape {tuple(self.shape)}: samples of {len(self.samples)} passes>"


def _copied(gradient: StagedGradient, *_: Any, **__: Any) -> StagedGradient:
    return gradient.with_staged(gradient.staged.scaled(1.0))


def _empty(gradient: StagedGradient, *_: Any, **__: Any) -> StagedGradient:
    return gradient.with_staged(gradient.staged.empty())


def _assign(gradient: Any, other: Any, *_: Any, **__: Any) -> StagedGradient | None:
    if not isinstance(gradient, StagedGradient) or not isinstance(other, StagedGradient):
        return None
    gradient.staged.assign(other.staged)
    return gradient


def _zero(gradient: StagedGradient) -> StagedGradient:
    gradient.staged.zero_()
    return gradient


def _add(a: Any, b: Any, *, alpha: float = 1.0) -> StagedGradient | None:
    if isinstance(a, StagedGradient) and isinstance(b, StagedGradient):
        return a.with_staged(a.staged.plus(b.staged.scaled(alpha)))
    gradient, other = (a, b) if isinstance(a, StagedGradient) else (b, a)
    return gradient if _number(other) == 0.0 else None  # what sum() starts with


def _mul(a: Any, b: Any) -> StagedGradient | None:
    gradient, factor = (a, b) if isinstance(a, StagedGradient) else (b, a)
    number = _number(factor)
    if number is not None:
        return gradient.with_staged(gradient.staged.scaled(number))
    if not isinstance(factor, Tensor) or isinstance(factor, StagedGradient):
        return None
    size, mask = _mask_times_number(factor.detach())
    if size is None:
        return None
    mask = mask.expand(gradient.shape).to(gradient._place)
    return gradient.with_staged(gradient.staged.scaled(size).masked(mask))


def _div(gradient: Any, divisor: Any) -> StagedGradient | None:
    number = _number(divisor)
    if not isinstance(gradient, StagedGradient) or not number:
        return None
    return gradient.with_staged(gradient.staged.scaled(1.0 / number))


def _neg(gradient: StagedGradient) -> StagedGradient:
    return gradient.with_staged(gradient.staged.scaled(-1.0))


def _masked_fill(gradient: Any, where: Tensor, value: Any) -> StagedGradient | None:
    if not isinstance(gradient, StagedGradient) or _number(value) != 0.0:
        return None
    return gradient.with_staged(gradient.staged.masked(~where.expand(gradient.shape)))


def _where(condition: Tensor, a: Any, b: Any) -> StagedGradient | None:
    if isinstance(a, StagedGradient) and _all_zero(b):
        return a.with_staged(a.staged.masked(condition.expand(a.shape)))
    if isinstance(b, StagedGradient) and _all_zero(a):
        return b.with_staged(b.staged.masked(~condition.expand(b.shape)))
    return None


def _index_put(gradient: Any, indices: Sequence[Tensor | None], value: Any, *_: Any) -> StagedGradient | None:
    if not isinstance(gradient, StagedGradient) or not _all_zero(value):
        return None
    kept = torch.ones(gradient.shape, dtype=torch.bool, device=gradient._place)
    kept[tuple(slice(None) if i is None else i for i in indices)] = False
    return gradient.with_staged(gradient.staged.masked(kept))


def _all_zero(value: Any) -> bool:
    if isinstance(value, StagedGradient):
        return not value.staged.samples
    return not bool((value != 0).any()) if isinstance(value, Tensor) else value == 0


def _number(factor: Any) -> float | None:
    if isinstance(factor, Tensor):
        return float(factor) if factor.dim() == 0 and not isinstance(factor, StagedGradient) else None
    return float(factor) if isinstance(factor, (int, float)) else None


def _mask_times_number(factor: Tensor) -> tuple[float | None, Tensor]:
    """The number and the mask whose product is ``factor``; ``None`` if it has several values beside 0."""
    mask = factor != 0
    values = factor[mask]
    if values.numel() == 0:
        return 1.0, mask
    return (float(values[0]), mask) if bool((values == values[0]).all()) else (None, mask)


def _in_place(operation: Callable[..., StagedGradient | None]) -> Callable[..., StagedGradient | None]:
    def op(gradient: Any, *args: Any, **kwargs: Any) -> StagedGradient | None:
        return _assign(gradient, operation(gradient, *args, **kwargs))

    return op


_OUT_OF_PLACE: dict[str, Callable[..., StagedGradient | None]] = {
    "add": _add, "mul": _mul, "div": _div, "neg": _neg, "masked_fill": _masked_fill, "index_put": _index_put,
}  # fmt: skip

_OPERATIONS: dict[str, Callable[..., StagedGradient | None]] = {
    **_OUT_OF_PLACE,
    **{f"{name}_": _in_place(operation) for name, operation in _OUT_OF_PLACE.items()},
    **dict.fromkeys(("detach", "alias", "clone"), _copied),
    **dict.fromkeys(("zeros_like", "new_empty_strided"), _empty),
    "where": _where,
    "copy_": _assign,
    "zero_": _zero,
}
