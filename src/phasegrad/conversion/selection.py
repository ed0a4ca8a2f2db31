"""Selection of the modules to convert, and the reasons why the others stay digital."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Container, Iterable
from typing import Any, TypeAlias

from torch import Tensor, nn

from phasegrad import argument_checks as checks
from phasegrad.conversion.counterparts import LAZY, what_users_added, why_digital
from phasegrad.deprecation import warn_renamed
from phasegrad.nn import AnalogComposite, AnalogLayer

Filter: TypeAlias = Callable[[nn.Module, str], bool]
"""A predicate of a module and its fully qualified name."""
Selection: TypeAlias = str | Iterable[str] | Filter
"""Names of modules (each with its submodules), a regular expression that full names must match, or a filter."""

# Names of a filter's first parameter that tell its order, see _filter.
_MODULE_FIRST = frozenset({"module", "mod", "m", "layer", "submodule"})
_NAME_FIRST = frozenset({"name", "n", "fqn", "path", "key"})

REASONS = "_phasegrad_left_digital"
"""Attribute of a converted net that stores why modules stayed digital, by name."""


def left_digital(net: nn.Module) -> dict[str, str]:
    """Report why each module with parameters of its own is digital, by name."""
    known: dict[str, str] = getattr(checks.module("left_digital", "net", net), REASONS, {})
    left = {}
    for name, module in net.named_modules():
        if isinstance(module, AnalogComposite):
            if module.digital_part is not None:
                left[name] = module.digital_part
        elif _has_weights(module) and not isinstance(module, AnalogLayer):
            left[name] = known.get(name) or why_digital(module) or "not converted"
    return left


def selected(model: nn.Module, selection: Selection, argument: str) -> list[tuple[str, nn.Module]]:
    """Find the modules of a selection, with their names.

    Args:
        model: the model.
        selection: a filter ``(module, name) -> bool``, or names. A name selects the module with this full name, or else
            every module whose name ends with a dot and this name (as in PEFT), including submodules. A single string
            that matches no name is a regular expression that full names must match.
        argument: name of the argument, for error messages.

    Raises:
        ValueError: a name or pattern matches no module.
    """
    modules = list(model.named_modules(remove_duplicate=False))
    selection = _checked(selection, argument)
    if callable(selection):
        return _filter(modules, selection, argument)
    chosen: set[str] = set()
    for name in [selection] if isinstance(selection, str) else selection:
        found = {n for n, _ in modules if n == name} or {n for n, _ in modules if n.endswith(f".{name}")}
        if not found and isinstance(selection, str):
            found = {n for n, _ in modules if re.fullmatch(selection, n)}
        if not found:
            raise ValueError(
                f"convert: {argument} names {name!r}, which matches no module of the model; its modules are "
                f"{', '.join(n for n, _ in modules if n)}"
            )
        chosen |= found
    return [(n, m) for n, m in modules if any(n == c or n.startswith(f"{c}.") or not c for c in chosen)]


def _checked(selection: Any, argument: str) -> Any:
    """The selection, with names in a list or a string; raise ``TypeError`` if it is something else."""
    rule = "names of modules, or a filter (module, name) -> bool"
    if isinstance(selection, type):
        rule += f", such as lambda module, name: isinstance(module, {selection.__name__})"
    elif isinstance(selection, str) or (callable(selection) and not isinstance(selection, nn.Module)):
        return selection
    elif isinstance(selection, Iterable) and not isinstance(selection, (bytes, dict, Tensor, nn.Module)):
        names = list(selection)
        if all(isinstance(name, str) for name in names):
            return names
    raise TypeError(f"convert: {argument} = {checks.shown(selection)}; it must be {rule}")


def _filter(modules: list[tuple[str, nn.Module]], choose: Filter, argument: str) -> list[tuple[str, nn.Module]]:
    """Apply a filter, also one with the order of release 0.1.0, ``(name, module)``.

    The names of its parameters tell the order. Otherwise both orders are tried: one that fails or selects nothing is
    not the order that was meant.
    """
    first = _first_parameter(choose)
    if first in _MODULE_FIRST:
        return [(n, m) for n, m in modules if choose(m, n)]
    found, error = _try(lambda n, m: choose(m, n), modules) if first not in _NAME_FIRST else ([], None)
    swapped, _ = _try(choose, modules)
    if swapped and found and swapped != found:
        raise ValueError(
            f"convert: {argument} is a filter whose parameters are (module, name) since phasegrad 0.2.0; with "
            f"(name, module) it selects other modules, so call its first parameter module to say which is meant"
        )
    if swapped and not found:
        warn_renamed(f"convert({argument}=) with a filter (name, module)", "(module, name)")
        return swapped
    if error is not None:
        raise error
    return found


def _first_parameter(choose: Filter) -> str:
    try:
        return next(iter(inspect.signature(choose).parameters), "")
    except (TypeError, ValueError):  # some built-in callables have no signature
        return ""


def _try(
    choose: Callable[..., bool], modules: list[tuple[str, nn.Module]]
) -> tuple[list[tuple[str, nn.Module]], Exception | None]:
    """The modules that a filter ``(name, module)`` selects, or none and the error that it raised."""
    try:
        return [(n, m) for n, m in modules if choose(n, m)], None
    except Exception as error:
        return [], error


def _has_weights(module: nn.Module) -> bool:
    return any(p is not None for p in module._parameters.values())


def chosen_by_user(reason: str) -> bool:
    """Whether the user left a module digital on purpose."""
    return reason.startswith(("named in", "not named in"))


def reasons_to_stay_digital(
    model: nn.Module, chosen: set[int] | None, skipped: set[int], with_hardware: Container[int]
) -> dict[str, str | None]:
    """Find why each module with a counterpart or with parameters of its own stays digital; ``None`` if it does not.

    Submodules of a converted module are converted with it and are not listed, nor are modules that are analog already.

    Args:
        model: the model.
        chosen: ids of the modules to convert; ``None`` for all.
        skipped: ids of the modules to leave digital.
        with_hardware: ids of the modules for which there is hardware.
    """
    reasons: dict[str, str | None] = {}
    seen: set[int] = set()

    def visit(name: str, module: nn.Module, parent: nn.Module | None) -> None:
        if id(module) in seen or isinstance(module, (AnalogLayer, AnalogComposite)):
            return
        seen.add(id(module))
        reason = _reason_to_stay_digital(module, chosen, skipped, with_hardware)
        if reason is None and parent is not None and _reads_weight_of(parent, module):
            reason = f"{type(parent).__name__} reads its weight and does not call it"
        if reason is None:
            seen.update(id(part) for part in module.modules())
        if reason is None or reason == LAZY or _has_weights(module):
            reasons[name] = reason
        if reason is not None:
            for child_name, child in module.named_children():
                visit(f"{name}.{child_name}" if name else child_name, child, module)

    visit("", model, None)
    return reasons


def _reads_weight_of(parent: nn.Module, child: nn.Module) -> bool:
    """Whether a module multiplies by the weight of its child without calling the child."""
    return (
        isinstance(parent, nn.MultiheadAttention)
        and type(parent).forward is nn.MultiheadAttention.forward
        and parent._modules.get("out_proj") is child
    )


def _reason_to_stay_digital(
    module: nn.Module, chosen: set[int] | None, skipped: set[int], with_hardware: Container[int]
) -> str | None:
    reason = why_digital(module)
    if reason not in (None, LAZY, what_users_added(module)):
        return reason
    if id(module) in skipped:
        return "named in skip"
    if chosen is not None and id(module) not in chosen:
        return "not named in only"
    if id(module) not in with_hardware:
        return "not named in hardware"
    part = next((name for name, m in module.named_modules() if id(m) in skipped), None)
    return reason if part is None else f"{part}, a part of it, is named in skip"
