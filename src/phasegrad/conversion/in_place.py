"""Modules that become their counterparts in place, so that everything that refers to them computes in tiles.

A model may call a layer through a list, a dictionary, another object, or a compiled function that refers to it. A
layer that was only exchanged in its parent's ``_modules`` would still be called there as it was before.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from phasegrad.nn.copying import all_plain

_ATOMS = (str, bytes, int, float, complex, bool, type(None), type, types.ModuleType)
_REFERENCES = (Tensor, nn.Module, types.MethodType, types.FunctionType, weakref.ref)
_STATE = frozenset(("_parameters", "_buffers", "_modules"))
_HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called", "_state_dict_hooks", "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip
_PLAIN_ATTRIBUTES: WeakKeyDictionary[type, frozenset[str]] = WeakKeyDictionary()
_CARRIED = "_phasegrad_carried"
"""Attribute of a counterpart that names the attributes that the user had set on the digital module."""


def become(module: nn.Module, counterpart: nn.Module) -> nn.Module:
    """Turn a module into its counterpart, with the hooks of the module.

    Returns:
        The module itself; or the counterpart, if the layout of its class differs, which slots can cause.
    """
    if counterpart is module:
        return module
    _copy_hooks(module, counterpart)
    if any(part is module for part in counterpart.modules()):  # a wrapper: it keeps what the module was
        kept = module.__class__.__new__(module.__class__)
        kept.__dict__ = dict(module.__dict__)
        replace_submodules(counterpart, {id(module): kept})
    try:
        module.__class__ = type(counterpart)
    except TypeError:
        return counterpart
    module.__dict__ = counterpart.__dict__
    return module


def carry_attributes(digital: nn.Module, counterpart: nn.Module, make_plain: Callable[[], nn.Module]) -> None:
    """Copy the attributes that a user set on a digital module to its counterpart; ``make_plain`` makes one without."""
    kind = type(digital)
    if kind not in _PLAIN_ATTRIBUTES:
        _PLAIN_ATTRIBUTES[kind] = frozenset(vars(make_plain()))
    standard = _PLAIN_ATTRIBUTES[kind] | vars(counterpart).keys()
    own = {key: value for key, value in vars(digital).items() if key not in standard}
    if own:
        vars(counterpart).update({**own, _CARRIED: tuple(own)})


def restore_attributes(counterpart: nn.Module, digital: nn.Module) -> None:
    """Copy the attributes of ``carry_attributes`` back."""
    vars(digital).update({key: vars(counterpart)[key] for key in vars(counterpart).get(_CARRIED, ())})


def replace_submodules(net: nn.Module, replacements: Mapping[int, nn.Module]) -> nn.Module:
    """Replace submodules wherever they occur, by id; return the root, which may itself be replaced."""
    for parent in list(net.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and id(child) in replacements:
                parent._modules[name] = replacements[id(child)]
    return replacements.get(id(net), net)


def rebind(
    net: nn.Module, classes: Mapping[int, type], copies: Mapping[int, nn.Module], original: nn.Module
) -> None:  # fmt: skip
    """Rebind methods and weak references that the attributes of a net hold, however deep in containers.

    Objects that the copy shares with the original, as one whose ``__deepcopy__`` returns itself, are left alone.

    Args:
        net: a copy of ``original``, some of whose modules have become counterparts.
        classes: the class that a module had before, by the id of the module.
        copies: the copy of each module of the model, by the id of the original.
        original: the model that was copied.
    """

    def rebound(value: Any) -> Any:
        if type(value) is weakref.ref:  # a subclass knows what it is kept for
            copied = copies.get(id(value()))
            return value if copied is None else weakref.ref(copied)
        if isinstance(value, types.MethodType) and id(value.__self__) in classes:
            name = value.__func__.__name__
            if getattr(classes[id(value.__self__)], name, None) is value.__func__:
                return getattr(value.__self__, name, value)
        return value

    seen = _containers(original)
    for module in list(net.modules()):
        for key, value in list(vars(module).items()):
            if key not in _STATE:
                new = _rewritten(value, rebound, seen)
                if new is not value:
                    vars(module)[key] = new


def _containers(net: nn.Module) -> set[int]:
    """The ids of the containers and objects that the attributes of a net hold, however deep."""
    seen: set[int] = set()
    for module in net.modules():
        for key, value in list(vars(module).items()):
            if key not in _STATE:
                _rewritten(value, lambda part: part, seen)
    return seen


def attribute_values(net: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    """Every module of a net with each tensor, module, function and weak reference that its attributes hold."""
    seen: set[int] = set()
    for module in net.modules():
        for key, value in list(vars(module).items()):
            if key not in _STATE:
                found: list[Any] = []
                _rewritten(value, lambda v, found=found: found.append(v) or v, seen)
                for part in found:
                    yield module, key, part


def _rewritten(value: Any, new: Callable[[Any], Any], seen: set[int]) -> Any:
    """The value with ``new`` of each object in it; mutable containers and objects are changed in place."""
    if type(value) in (tuple, list) and all_plain(value):  # a vocabulary may have a million of these
        return value
    if isinstance(value, _ATOMS) or id(value) in seen:
        return value
    if isinstance(value, _REFERENCES):
        return new(value)
    if isinstance(value, (tuple, frozenset, functools.partial)):
        return _rebuilt(value, new, seen)
    seen.add(id(value))
    if isinstance(value, (list, deque)):
        _assign(value, () if all_plain(value) else enumerate(list(value)), new, seen)
    elif isinstance(value, dict):
        if not all_plain(value.values()):
            _assign(value, list(value.items()), new, seen)
        if not all_plain(value) and any(_rewritten(key, new, seen) is not key for key in value):
            items = [(_rewritten(key, new, seen), part) for key, part in value.items()]
            value.clear()
            value.update(items)
    elif isinstance(value, set):
        parts = [] if all_plain(value) else [(part, _rewritten(part, new, seen)) for part in list(value)]
        for old, replaced in parts:
            if replaced is not old:
                value.discard(old)
                value.add(replaced)
    else:
        _rewrite_object(value, new, seen)
    return value


def _rebuilt(value: Any, new: Callable[[Any], Any], seen: set[int]) -> Any:
    """An immutable container, made again if anything in it changes."""
    if isinstance(value, functools.partial):
        func, args = _rewritten(value.func, new, seen), _rewritten(value.args, new, seen)
        named = {key: _rewritten(part, new, seen) for key, part in value.keywords.items()}
        changed = func is not value.func or args is not value.args
        changed = changed or any(named[key] is not part for key, part in value.keywords.items())
        return type(value)(func, *args, **named) if changed else value
    parts = list(value)
    rewritten = [_rewritten(part, new, seen) for part in parts]
    if all(a is b for a, b in zip(parts, rewritten, strict=True)):
        return value
    return type(value)(*rewritten) if hasattr(value, "_fields") else type(value)(rewritten)


def _assign(container: Any, items: Iterable[tuple[Any, Any]], new: Callable[[Any], Any], seen: set[int]) -> None:
    for key, value in items:
        replaced = _rewritten(value, new, seen)
        if replaced is not value:
            container[key] = replaced


def _rewrite_object(value: Any, new: Callable[[Any], Any], seen: set[int]) -> None:
    """Rewrite the attributes of an object, also those in slots and of frozen dataclasses."""
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict):
        _assign(attributes, list(attributes.items()), new, seen)
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else tuple(slots):
            part = getattr(value, name, None)
            replaced = _rewritten(part, new, seen)
            if replaced is not part:
                object.__setattr__(value, name, replaced)


def _copy_hooks(old: nn.Module, new: nn.Module) -> None:
    """Copy the hooks that the user registered on a module to its replacement."""
    for name in _HOOKS:
        getattr(new, name).update(getattr(old, name))
    new._is_full_backward_hook = old._is_full_backward_hook
