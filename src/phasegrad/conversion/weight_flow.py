"""Which tensors of a forward pass are functions of weights alone, and of which weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from phasegrad.conversion.products import draws, embeds, looks_up, tensors

Owners = frozenset[int]
"""Numbers of the weights that a tensor is computed from; none for a constant."""
_NONE: Owners = frozenset()
_SCALINGS = frozenset(("aten::mul", "aten::mul_", "aten::div", "aten::div_"))


class _Scaled(NamedTuple):
    """An activation that is the elementwise product of another one with a function of weights."""

    owners: Owners
    factor: tuple[int, ...]  # shapes, aligned at the last axis
    other: tuple[int, ...]
    shape: tuple[int, ...]
    keep: Any


class WeightFlow:
    """Follows weights through the operators of a forward pass.

    A tensor is known by its storage, which its views share: they are functions of the same weights. A tensor that is
    neither a weight nor computed from weights and constants alone is an activation.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        self._roots: dict[object, list[tuple[int, int, int]]] = {}
        self._owners: dict[object, Owners] = {}
        self._scaled: dict[object, _Scaled] = {}
        self._keep: dict[object, Any] = {}  # an identity is not used again while its object is referred to
        for number, weight in enumerate(weights):
            key = self._key(weight)
            start, size = _position(weight)
            self._roots.setdefault(key, []).append((start, start + max(size, 1), number))

    def owners(self, tensor: Tensor) -> Owners | None:
        """The weights that a tensor is a function of; ``None`` for an activation."""
        key = self._key(tensor, remember=False)
        if key in self._owners:
            return self._owners[key]
        if key not in self._roots:
            return None
        roots = self._roots[key]
        if len(roots) == 1:
            return frozenset((roots[0][2],))
        start, _ = _position(tensor)  # several weights share memory, as those of a recurrent layer do
        return frozenset(n for first, end, n in roots if first <= start < end)

    def follow(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Record what an operator computed."""
        inputs = [*tensors(args), *tensors(kwargs)]
        known = [self.owners(t) for t in inputs]
        owners = frozenset().union(*(o for o in known if o is not None))
        activation = None in known or (draws(op) and not owners)
        if op._schema.name == "aten::lift_fresh" and inputs[0].dim() == 0:  # a number that the model wrote as a tensor
            activation = False
        elif embeds(op):
            activation = True
        elif looks_up(op) and inputs and known[0] is not None and inputs[0].dim() > 2:
            activation = False  # the matrix of a chosen expert is a weight; a chosen row is an activation
        written = set(self._written(op, args, kwargs))
        for output in tensors(result):
            key = self._key(output, remember=not activation)
            is_view = key in self._keys(inputs) and key not in written
            if not is_view:
                self._set(key, None if activation else owners)
        for key in written:
            self._set(key, None if activation else owners | self._owners.get(key, _NONE))
        if activation:
            self._note_scaling(op, inputs, known, result)

    def summed(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Owners:
        """The weights by which a sum of elementwise products multiplies, as ``vecdot`` does."""
        name = op._schema.name.partition("::")[2]
        if name not in ("sum", "mean") or not args or not isinstance(args[0], Tensor):
            return _NONE
        found = self._scaled.get(self._key(args[0], remember=False))
        if found is None:
            return _NONE
        matrix = sum(size > 1 for size in found.factor) > 1
        if tuple(args[0].shape) != found.shape:
            return found.owners if matrix else _NONE
        axes = args[1] if len(args) > 1 else kwargs.get("dim")
        axes = range(len(found.shape)) if not axes else [axes] if isinstance(axes, int) else axes
        back = [axis % len(found.shape) - len(found.shape) for axis in axes]
        both = any(_size(found.factor, axis) > 1 and _size(found.other, axis) > 1 for axis in back)
        return found.owners if both and (matrix or name == "sum") else _NONE

    def _note_scaling(self, op: Any, inputs: list[Tensor], known: list[Owners | None], result: Any) -> None:
        if op._schema.name not in _SCALINGS or len(inputs) != 2 or not isinstance(result, Tensor):
            return
        first, second = known
        weight, other = (inputs[0], inputs[1]) if first else (inputs[1], inputs[0])
        owners = first or second
        if owners and (first is None or second is None):
            key = self._key(result, remember=False)
            shapes = (tuple(weight.shape), tuple(other.shape), tuple(result.shape))
            if _matrix_scaled_by_less(*shapes[:2]):
                self._set(self._key(result), owners)
            self._scaled[key] = _Scaled(owners, *shapes, StorageWeakRef(result.untyped_storage()))

    def _written(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[object]:
        if op._schema.is_mutable:
            for i, argument in enumerate(op._schema.arguments):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    for t in tensors(args[i] if i < len(args) else kwargs.get(argument.name)):
                        yield self._key(t)

    def _set(self, key: object, owners: Owners | None) -> None:
        self._scaled.pop(key, None)
        if owners is None:
            self._owners.pop(key, None)
            self._roots.pop(key, None)
        else:
            self._owners[key] = owners

    def _keys(self, inputs: Iterable[Tensor]) -> set[object]:
        return {self._key(t, remember=False) for t in inputs}

    def _key(self, tensor: Tensor, remember: bool = True) -> object:
        """What identifies the memory of a tensor; a sparse or wrapped tensor is known as an object."""
        if tensor.layout is torch.strided and not is_traceable_wrapper_subclass(tensor):
            storage = tensor.untyped_storage()
            key: object = storage._cdata
            if remember and key not in self._keep:
                self._keep[key] = StorageWeakRef(storage)
            return key
        key = ("object", id(tensor))
        if remember:
            self._keep.setdefault(key, tensor)
        return key


def _position(tensor: Tensor) -> tuple[int, int]:
    """Offset of a tensor in its storage, and its size [bytes]."""
    if tensor.layout is not torch.strided or is_traceable_wrapper_subclass(tensor):
        return 0, 1
    return int(tensor.storage_offset()) * tensor.itemsize, tensor.numel() * tensor.itemsize


def _size(shape: tuple[int, ...], axis: int) -> int:
    return shape[axis] if -axis <= len(shape) else 1


def _matrix_scaled_by_less(weight: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether a matrix is scaled, as by a style: it varies along axes along which the other factor does not."""
    varying = [axis for axis in range(-len(weight), 0) if weight[axis] > 1]
    return len(varying) > 1 and any(_size(other, axis) == 1 for axis in varying)
