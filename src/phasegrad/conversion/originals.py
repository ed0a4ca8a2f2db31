"""Functions of a converted net that still call the layers of the digital model, which copying cannot change."""

from __future__ import annotations

import dis
import functools
import types
import warnings
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from phasegrad.conversion.in_place import attribute_values

_ORIGINALS = "_phasegrad_originals"
"""Attribute of a converted net with weak references to the modules that it was copied from."""
_ATOMS = (str, bytes, int, float, type, types.ModuleType, types.BuiltinFunctionType, Tensor)


class Originals:
    """The modules that the layers of a net were copied from, by name; copies refer to the same, pickles to none."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._references = {name: weakref.ref(module) for name, module in modules.items()}

    def alive(self) -> dict[str, nn.Module]:
        """The modules that still exist."""
        found = {name: reference() for name, reference in self._references.items()}
        return {name: module for name, module in found.items() if module is not None}

    def __deepcopy__(self, memo: dict[int, Any]) -> Originals:
        return self

    def __reduce__(self) -> Any:
        return Originals, ({},)


def copies(model: nn.Module, net: nn.Module) -> dict[int, nn.Module]:
    """The module of a copy of the model, by the id of the module that it was copied from."""
    mine = dict(net.named_modules())
    return {id(module): mine[name] for name, module in model.named_modules() if name in mine}


def originals(net: nn.Module) -> dict[str, nn.Module]:
    """The digital modules that a net was copied from, by name, if functions of the net refer to them."""
    found = vars(net).get(_ORIGINALS)
    return found.alive() if isinstance(found, Originals) else {}


def warn_about_originals(model: nn.Module, net: nn.Module, names: list[str]) -> None:
    """Warn about what the net holds that refers to modules of the model among ``names``, or to their parents."""
    modules = {name: model.get_submodule(name) for name in names}
    containing = {
        id(parent): name for name in reversed(names) for parent in (*_ancestors(model, name), model.get_submodule(name))
    }
    seen: set[int] = set()
    found = {
        f"{where} refers to {containing[id(m)] or 'the model'}": None
        for where, value in _references(net)
        for m in _referred_modules(value, containing, seen)
    }
    if not found:
        return
    vars(net)[_ORIGINALS] = Originals(modules)
    warnings.warn(
        f"convert: {'; '.join(found)} of the digital model, through a closure, a default, a global variable or an "
        "object that is not copied. A copy does not change what functions and such objects refer to, so the net will "
        "compute this digitally, with the weights of the model. Let the function find the layer through self, or "
        "convert the model before it is made; let the __deepcopy__ of the object return a copy",
        UserWarning,
        stacklevel=3,
    )


def _ancestors(model: nn.Module, name: str) -> Iterator[nn.Module]:
    while name:
        name = name.rpartition(".")[0]
        yield model.get_submodule(name)


def _references(net: nn.Module) -> Iterator[tuple[str, Any]]:
    """What a net holds that may refer to modules, and the methods of its classes outside torch, with their names."""
    names = {id(module): name for name, module in net.named_modules()}
    for module, key, value in attribute_values(net):
        if not isinstance(value, Tensor):
            yield f"{names[id(module)]}.{key}".lstrip("."), value
    kinds = {base for module in net.modules() for base in type(module).__mro__}
    for kind in kinds:
        if kind.__module__.partition(".")[0] not in ("torch", "phasegrad", "builtins"):
            for key, value in vars(kind).items():
                function = getattr(value, "__func__", getattr(value, "fget", value))
                if isinstance(function, types.FunctionType):
                    yield f"{kind.__name__}.{key}", function


def _referred_modules(value: Any, wanted: Mapping[int, str], seen: set[int]) -> Iterator[nn.Module]:
    """The wanted modules that a function refers to other than through its arguments."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, nn.Module):
            if id(value) in wanted:
                yield value
        elif id(value) not in seen and not isinstance(value, _ATOMS):
            seen.add(id(value))
            waiting += _parts(value)


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, types.FunctionType):
        for cell in value.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # not assigned yet
                continue
        yield from value.__defaults__ or ()
        yield from (value.__kwdefaults__ or {}).values()
        yield from vars(value).values()
        for name in _global_names(value.__code__) & value.__globals__.keys():
            part = value.__globals__[name]
            if getattr(part, "__module__", None) == value.__module__ or not isinstance(part, types.FunctionType):
                yield part  # functions of other files are not followed: they would lead through whole libraries
    elif isinstance(value, types.MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, weakref.ref):
        yield value()
    elif isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from value
    elif type(value).__module__.partition(".")[0] not in ("torch", "builtins", "numpy"):
        yield from getattr(value, "__dict__", {}).values()


@functools.lru_cache(4096)
def _global_names(code: types.CodeType) -> frozenset[str]:
    """The names of the global variables that code reads, nested functions included."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return frozenset(names)
