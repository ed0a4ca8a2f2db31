"""Digital operators of a forward pass: their operations and the bytes that they move."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from phasegrad.conversion.products import tensors

_MOVES = frozenset(("clone", "_to_copy", "copy_", "alias", "detach", "contiguous", "fill_", "zero_", "set_"))
"""Operators that only change layout, place or dtype: a chip brings data to where it is used anyway."""
_READS_PART = frozenset(("embedding", "index", "index_select", "gather", "cat", "stack"))
"""Operators that move what they return, not all of their arguments."""
_WRITES_PART = {"index_put": 2, "index_put_": 2, "index_copy": 3, "index_copy_": 3, "scatter": 3, "scatter_": 3}
"""Operators that write one of their arguments, at this position, into a larger tensor."""
_GROUPED = "_grouped_mm"
"""Products of tokens with the weights of their experts, whose operations torch does not count."""
_PER_ELEMENT = {
    "_softmax": 5,  # maximum, difference, exponential, sum, quotient
    "_log_softmax": 5,
    "_safe_softmax": 5,
    "native_layer_norm": 7,  # mean; difference, square, sum; product with 1 / sd; scale, shift
    "native_group_norm": 7,
    "_fused_rms_norm": 4,  # square, sum; product with 1 / rms; scale
    "native_batch_norm": 2,  # in evaluation: scale, shift
    "_native_batch_norm_legit_no_training": 2,
    "cudnn_batch_norm": 2,
    "addcmul": 2,
    "addcdiv": 2,
    "lerp": 3,
}
"""Operations per element of operators that are several; all others count as one per element."""


@dataclass
class OperatorCost:
    """The calls of one operator that an estimate counts."""

    name: str
    calls: int = 0
    operations: float = 0.0
    bytes: float = 0.0
    """Bytes of activations and weights that it reads and writes, in the dtypes of the model."""
    products: float = 0.0
    """Those of its operations that are matrix products."""
    values: float = 0.0
    """Values that it reads and writes."""


class OperatorCounter(TorchDispatchMode):
    """Counts operators whose result depends on the inputs of a net, outside the tiles.

    Args:
        inputs: the inputs of the net.
    """

    def __init__(self, inputs: Any) -> None:
        super().__init__()
        self.operators: dict[str, OperatorCost] = {}
        self._activations = WeakIdKeyDictionary()
        self._paused = False
        self.mark(inputs)

    def mark(self, values: Any) -> None:
        """Note tensors as activations: what is computed from them is counted."""
        for tensor in tensors(values):
            self._activations[tensor] = True

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Count nothing in this context."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        result = _grouped_product(func, *args, **kwargs) if name == _GROUPED else func(*args, **kwargs)
        given = list(tensors((args, kwargs)))
        blank = name.startswith("new_") or name.endswith("_like")  # depends on shapes alone
        if not self._paused and not blank and any(t in self._activations for t in given):
            self.mark(result)
            self._count(func, name, args, kwargs, given, list(tensors(result)))
        return result

    def _count(
        self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], given: list[Tensor],
        made: list[Tensor],
    ) -> None:  # fmt: skip
        if name in _MOVES or not made or _is_view(func, given, made):
            return
        shown = "scaled_dot_product_attention" if "scaled_dot_product" in name else name.strip("_")
        cost = self.operators.setdefault(shown, OperatorCost(shown))
        cost.calls += 1
        if "scaled_dot_product" in name:
            cost.products += _attention_products(*given[:2])
            cost.operations += _attention_operations(*given[:2])
        elif name == _GROUPED:
            cost.operations += 2.0 * given[0].numel() * given[1].shape[-1]
            cost.products += 2.0 * given[0].numel() * given[1].shape[-1]
        elif func._overloadpacket in _products():
            flops = float(_products()[func._overloadpacket](*args, **kwargs, out_val=made[0]))
            cost.operations += flops
            cost.products += flops
        elif name not in _READS_PART and name not in _WRITES_PART:
            cost.operations += _elements(name, args, kwargs, given, made)
        self._count_bytes(cost, name, args, given, made)

    @staticmethod
    def _count_bytes(
        cost: OperatorCost, name: str, args: tuple[Any, ...], given: list[Tensor], made: list[Tensor]
    ) -> None:
        made = made[:1]  # others are what a backward pass would need
        if name in ("cat", "stack"):  # the largest part stays where it is, as a cache that is appended to
            parts = sorted(given, key=_values)
            moved = 2 * (parts[:-1] if name == "cat" else parts)
        elif name in _WRITES_PART:
            moved: list[Tensor] = 2 * [args[_WRITES_PART[name]]]
        elif name in _READS_PART:
            moved = 2 * made
        else:
            moved = given + made
        cost.values += sum(map(_values, moved))
        cost.bytes += sum(_values(t) * t.element_size() for t in moved)


@functools.cache
def _products() -> dict[Any, Callable[..., Any]]:
    """The operations of operators that are matrix products, by operator."""
    # Here, because it imports Triton, which `import phasegrad` must not: see phasegrad.ops.cuda.
    from torch.utils.flop_counter import flop_registry

    return flop_registry


def _grouped_product(func: Any, a: Tensor, b: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A grouped product, which torch computes in every dtype but gives a shape only in bfloat16."""
    return func(a.bfloat16(), b.bfloat16(), *args, **kwargs).to(a.dtype)


def _is_view(func: Any, given: list[Tensor], made: list[Tensor]) -> bool:
    """Whether the result is the memory of an argument that is not written to."""
    if func._schema.is_mutable:
        return False
    storages = {t.untyped_storage()._cdata for t in given}
    return all(t.untyped_storage()._cdata in storages for t in made)


def _values(tensor: Tensor) -> int:
    """Elements of a tensor in memory: one that is expanded counts once."""
    sizes = (n for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or n <= 1)
    return math.prod(sizes)


def _elements(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], given: list[Tensor], made: list[Tensor]
) -> float:
    """Operations of an operator that is no matrix product."""
    if "pool" in name and "adaptive" not in name:
        kernel = args[1] if len(args) > 1 else kwargs.get("kernel_size", 1)
        window = math.prod(kernel) if isinstance(kernel, (list, tuple)) else kernel
        if isinstance(kernel, (list, tuple)) and len(kernel) == 1:
            window = kernel[0] ** (made[0].dim() - 2)
        return float(made[0].numel() * window)
    largest = max(t.numel() for t in (*given, *made))
    return float(_PER_ELEMENT.get(name, 1) * largest)


def _attention_products(q: Tensor, k: Tensor) -> float:
    """Operations of the two products of attention, of queries ``[..., L, d]`` and keys ``[..., S, d]``."""
    return 4.0 * q.numel() * k.shape[-2]


def _attention_operations(q: Tensor, k: Tensor) -> float:
    """Those products, and scale and softmax of every score; a mask saves nothing."""
    scores = q.numel() / max(1, q.shape[-1]) * k.shape[-2]
    return _attention_products(q, k) + (1 + _PER_ELEMENT["_softmax"]) * scores
