"""Copies of nets.

``copy.deepcopy`` refuses a net that holds the result of a computation (``self.features = ...``), an open file, a lock
or a generator, anywhere. The copies of this module are those of ``deepcopy`` except that such a result is detached from
its graph, and that an object that cannot be copied is shared with the original. A copy of a chip shares memory with
it as long as neither is written to.
"""

from __future__ import annotations

import copy
import copyreg
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from functools import partial
from types import MethodType
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from phasegrad.nn.layer import analog_layers
from phasegrad.ops.lazy_copies import lazy_copy, shareable
from phasegrad.stores.programmed import Programmed

T = TypeVar("T")
Memo = dict[int, Any]
"""By the id of an object, its copy, as ``copy.deepcopy`` keeps it."""

_CONTAINERS = (dict, OrderedDict, list, tuple, set, deque)
_PLAIN = frozenset((int, float, complex, bool, str, bytes, type(None)))


def copy_net(net: T, memo: Memo | None = None) -> T:
    """Copy a net, also if results of computations, open files, locks or generators hang on it.

    Args:
        net: the net.
        memo: copies that exist already, by the id of the original; copies that are made are added.

    Raises:
        ValueError: the copy would share an analog layer with the net, because of a ``__deepcopy__`` of the user's.
    """
    copied = _copied(net, {} if memo is None else memo)
    if isinstance(net, nn.Module):
        refuse_shared("copying the net", net, copied, analog_layers(copied))
    return copied


def refuse_shared(caller: str, net: nn.Module, copied: nn.Module, names: Iterable[str]) -> None:
    """Raise ``ValueError`` if the named modules of a copy are those of the net, which a change of the copy would reach.

    Args:
        caller: what the copy is made for, for the error.
        net: the net.
        copied: its copy.
        names: names of modules of the copy that are going to be changed.
    """
    own = set(net.modules())
    shared = [name for name in names if not own.isdisjoint(copied.get_submodule(name).modules())]
    if shared:
        raise ValueError(
            f"{caller}: {', '.join(name or 'the model' for name in shared[:20])} cannot be copied: a __deepcopy__, of "
            "the module or of one that contains it, returns the object itself, so what is done to the copy would "
            "change the original. Let it return a copy, or name these modules in skip of convert"
        )


def all_plain(values: Iterable[Any]) -> bool:
    """Whether values are all numbers or strings, which refer to nothing; quick for vocabularies of a million words."""
    return _PLAIN.issuperset(map(type, values))


def shared_copy(chip: nn.Module, rewritten: bool = False) -> nn.Module:
    """Copy a chip; the copy shares the memory of its large tensors until either is written to.

    Args:
        chip: the net.
        rewritten: whether the caller writes ``weight`` of all layers with devices, so that it need not be copied.
    """
    if not any(layer.devices is not None for layer in analog_layers(chip).values()):
        return copy_net(chip)  # a net that somebody trains keeps its memory
    memo: Memo = {}
    for layer in analog_layers(chip).values() if rewritten else ():
        if layer.store.name == Programmed.name and type(layer.weight) is nn.Parameter:
            memo[id(layer.weight)] = nn.Parameter(torch.empty_like(layer.weight), layer.weight.requires_grad)
    tensors = {
        id(t): t for m in chip.modules() for t in (*m._parameters.values(), *m._buffers.values()) if t is not None
    }
    views = Counter(t.untyped_storage()._cdata for t in tensors.values() if shareable(t))
    for key, tensor in tensors.items():
        if key not in memo and shareable(tensor) and views[tensor.untyped_storage()._cdata] == 1:
            memo[key] = lazy_copy(tensor)
    return copy_net(chip, memo)


def _copied(value: Any, memo: Memo) -> Any:
    if type(value) in _PLAIN:
        return value
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, nn.Module) and _is_made_of_attributes(value):
        return _copied_module(value, memo)
    if isinstance(value, Tensor) and not value.is_leaf:
        memo[id(value)] = value.detach().clone()
        return memo[id(value)]
    if type(value) in _CONTAINERS:
        return _copied_items(value, memo)
    if isinstance(value, MethodType):
        return MethodType(value.__func__, _copied(value.__self__, memo))
    if type(value) is partial:
        bound = {name: _copied(item, memo) for name, item in value.keywords.items()}
        return partial(_copied(value.func, memo), *_copied(value.args, memo), **bound)
    known = len(memo)
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # whatever the attribute of a user's class may raise
        while len(memo) > known:  # copies that were begun, and those that only they refer to
            memo.popitem()
        return _copied_attributes(value, memo)


def _is_made_of_attributes(module: nn.Module) -> bool:
    """Whether ``deepcopy`` would make a new object of the same type and copy its attributes."""
    return not hasattr(module, "__deepcopy__") and type(module).__reduce_ex__ is object.__reduce_ex__


def _copied_module(module: nn.Module, memo: Memo) -> nn.Module:
    parts = cast("tuple[Any, ...]", module.__reduce_ex__(4))
    if len(parts) < 3:  # as of a compiled module; its own modules are copied first, and then found in the memo
        for child in module.children():
            _copied(child, memo)
        return copy.deepcopy(module, memo)
    make, arguments, state, *items = parts
    if make is not copyreg.__newobj__ or not isinstance(state, dict) or any(i is not None for i in items):  # type: ignore[attr-defined]
        return copy.deepcopy(module, memo)
    memo.setdefault(id(memo), []).append(state)  # ids in the memo stay those of living objects
    new = memo[id(module)] = make(*arguments)
    new.__setstate__({name: _copied(value, memo) for name, value in state.items()})
    return new


def _copied_items(value: Any, memo: Memo) -> Any:
    if isinstance(value, tuple):
        if all_plain(value):
            return value
        items = tuple(_copied(item, memo) for item in value)
        return memo.setdefault(id(value), items)  # a cycle may have copied it meanwhile
    new: Any = deque(maxlen=value.maxlen) if isinstance(value, deque) else type(value)()
    memo[id(value)] = new
    if all_plain(value) and (not isinstance(value, dict) or all_plain(value.values())):
        new.extend(value) if isinstance(new, (list, deque)) else new.update(value)
    elif isinstance(value, dict):
        new.update((_copied(key, memo), _copied(item, memo)) for key, item in value.items())
    elif isinstance(value, set):
        new.update(_copied(item, memo) for item in value)
    else:
        new.extend(_copied(item, memo) for item in value)
    return new


def _copied_attributes(value: Any, memo: Memo) -> Any:
    """Copy an object that ``deepcopy`` refuses, attribute by attribute; one without attributes is shared.

    So is one with a ``__del__``, which might close what both share, and one that defines its own copies.
    """
    alone = not hasattr(value, "__dict__") or hasattr(value, "__del__") or hasattr(value, "__deepcopy__")
    if alone or isinstance(value, (type, Tensor)):
        return value
    try:
        new = copy.copy(value)
    except Exception:  # whatever the attribute of a user's class may raise
        return value
    if new is value:
        return value
    memo[id(value)] = new
    for key, item in list(value.items() if isinstance(value, dict) else ()):
        new[key] = _copied(item, memo)
    for index, item in enumerate(value if isinstance(value, (list, deque)) else ()):
        new[index] = _copied(item, memo)
    for name, item in vars(value).items():
        vars(new)[name] = _copied(item, memo)
    return new
