"""Which modules of a model are converted, and why the others stay digital."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from torch import nn

from phasegrad.conversion.counterparts import why_digital
from phasegrad.nn import AnalogComposite, AnalogLayer

Selection: TypeAlias = Iterable[str] | Callable[[str, nn.Module], bool]
"""Names of modules (each with all that it contains), or a predicate of name and module."""

REASONS = "_phasegrad_left_digital"
"""Attribute of a converted net: why modules stayed digital, by name."""


def left_digital(net: nn.Module) -> dict[str, str]:
    """Why each module that has weights of its own is digital, by name."""
    known: dict[str, str] = getattr(net, REASONS, {})
    left = {}
    for name, module in net.named_modules():
        if isinstance(module, AnalogComposite):
            if module.digital_part is not None:
                left[name] = module.digital_part
        elif _has_weights(module) and not isinstance(module, AnalogLayer):
            left[name] = known.get(name) or why_digital(module) or "not converted"
    return left


def selected(model: nn.Module, selection: Selection, argument: str) -> list[tuple[str, nn.Module]]:
    """The modules of a selection, with their names."""
    modules = list(model.named_modules(remove_duplicate=False))
    if callable(selection):
        return [(n, m) for n, m in modules if selection(n, m)]
    names = [selection] if isinstance(selection, str) else list(selection)
    unknown = [n for n in names if n not in dict(modules)]
    if unknown:
        raise ValueError(
            f"convert: {argument} names {unknown[0]!r}, which the model does not have; its modules are "
            f"{', '.join(n for n, _ in modules if n)}"
        )
    return [(n, m) for n, m in modules if any(n == name or n.startswith(f"{name}.") for name in names)]


def _has_weights(module: nn.Module) -> bool:
    return any(p is not None for p in module._parameters.values())


def judge(model: nn.Module, chosen: set[int] | None, skipped: set[int]) -> dict[str, str | None]:
    """For each module with a counterpart, or with weights of its own, why it stays digital, or ``None``.

    What a converted module contains is converted with it, and not judged.
    """
    reasons: dict[str, str | None] = {}
    seen: set[int] = set()

    def visit(name: str, module: nn.Module) -> None:
        if id(module) in seen:
            return
        seen.add(id(module))
        reason = _reason(module, chosen, skipped)
        if reason is None:
            seen.update(id(part) for part in module.modules())
        if reason is None or _has_weights(module):
            reasons[name] = reason
        if reason is not None:
            for child_name, child in module.named_children():
                visit(f"{name}.{child_name}" if name else child_name, child)

    visit("", model)
    return reasons


def _reason(module: nn.Module, chosen: set[int] | None, skipped: set[int]) -> str | None:
    reason = why_digital(module)
    if reason is not None:
        return reason
    if id(module) in skipped:
        return "named in skip"
    if chosen is not None and id(module) not in chosen:
        return "not named in only"
    part = next((name for name, m in module.named_modules() if id(m) in skipped), None)
    return None if part is None else f"{part}, a part of it, is named in skip"
