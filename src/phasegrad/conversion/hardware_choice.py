"""The hardware of each layer: one for all, by name, or by a function."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import nn

from phasegrad.conversion.counterparts import LAZY
from phasegrad.conversion.selection import chosen_by_user, selected
from phasegrad.crossbar import Hardware
from phasegrad.nn import AnalogLayer, analog_layers

HardwareChoice: TypeAlias = Hardware | Mapping[str, Hardware] | Callable[[nn.Module, str], Hardware | None]
"""The hardware of all layers, of the modules that names select, or a function ``(module, name) -> Hardware | None``."""

_RULE = (
    "it must be a Hardware, such as pg.presets.pcm_inference(), a dictionary {name: Hardware}, or a function "
    "(module, name) -> Hardware | None"
)


def check_choice(hardware: Any) -> None:
    """Raise ``TypeError`` unless ``hardware`` is a choice of hardware, and ``ValueError`` if it is empty."""
    if isinstance(hardware, Hardware):
        return
    if isinstance(hardware, Mapping):
        if not hardware:
            raise ValueError(f"convert: hardware = {hardware}; {_RULE}, with at least one name")
        for name, value in hardware.items():
            if not isinstance(name, str) or not isinstance(value, Hardware):
                raise TypeError(f"convert: hardware[{name!r}] is a {_kind(value)}; hardware maps names to a Hardware")
    elif isinstance(hardware, type) or not callable(hardware):
        raise TypeError(f"convert: hardware is a {_kind(hardware)}; {_RULE}")
    elif not takes_two(hardware):
        name = getattr(hardware, "__name__", _kind(hardware))
        raise TypeError(
            f"convert: hardware is the function {name}, which does not take (module, name); {_RULE}. Call a preset, as "
            f"in {name}()"
        )


def takes_two(function: Any) -> bool:
    """Whether a function can be called with two arguments, as far as its signature tells."""
    try:
        inspect.signature(function).bind(None, "")
    except TypeError:
        return False
    except ValueError:  # some built-in functions have no signature
        pass
    return True


def choose_hardware(model: nn.Module, hardware: HardwareChoice) -> dict[int, Hardware]:
    """The hardware of each module, by the id of the module; modules without any are absent.

    Raises:
        ValueError: a name matches no module.
        TypeError: a function returned something else than a ``Hardware`` or ``None``.
    """
    if isinstance(hardware, Hardware):
        return {id(module): hardware for module in model.modules()}
    chosen: dict[int, Hardware] = {}
    if isinstance(hardware, Mapping):
        for name, value in hardware.items():
            for _, module in selected(model, name, "hardware"):
                chosen.setdefault(id(module), value)
        return chosen
    for name, module in model.named_modules():
        value = hardware(module, name)
        if value is None:
            continue
        if not isinstance(value, Hardware):
            raise TypeError(
                f"convert: hardware returned a {_kind(value)} for {name or 'the model'}; it must return a Hardware, or "
                "None to leave the module digital"
            )
        chosen[id(module)] = value
    return chosen


def check_entries(model: nn.Module, hardware: HardwareChoice, reasons: Mapping[str, str | None]) -> None:
    """Check that each entry of a dictionary of hardware decides the hardware of a layer.

    Args:
        model: the model.
        hardware: the choice; only dictionaries are checked.
        reasons: why modules stay digital, ``None`` for those that are converted, by name.

    Warns:
        UserWarning: an entry also names a part of a layer that has other hardware.

    Raises:
        ValueError: an entry applies to no layer, and ``only`` or ``skip`` are not why.
    """
    if not isinstance(hardware, Mapping):
        return
    names = [name for name, why in reasons.items() if why is None or why == LAZY]
    layers = {id(model.get_submodule(name)) for name in names}
    owners = {id(p): m for m in map(model.get_submodule, names) for p in m.modules() if p is not m}
    first: dict[int, str] = {}
    for entry in hardware:
        found = {id(module): name for name, module in selected(model, entry, "hardware")}
        for key in found:
            first.setdefault(key, entry)
        deciding = {key for key in found if first[key] == entry}
        if not deciding & layers and not any(chosen_by_user(reasons.get(name) or "") for name in found.values()):
            raise ValueError(f"convert: hardware[{entry!r}] {_why_unused(model, found, first, owners, reasons)}")
        _warn_parts(entry, [found[key] for key in deciding & owners.keys() if id(owners[key]) not in found])


def _why_unused(
    model: nn.Module, found: Mapping[int, str], first: Mapping[int, str], owners: Mapping[int, nn.Module],
    reasons: Mapping[str, str | None],
) -> str:  # fmt: skip
    """Why an entry that names the ``found`` modules applies to no layer, for an error."""
    for key, name in found.items():
        if name in reasons and reasons[name] in (None, LAZY):
            return (
                f"applies to no layer: {name or 'the model'} has the hardware of {first[key]!r}, the first entry that "
                "selects it. Put entries for single modules before those for many"
            )
    for key, name in found.items():
        if key in owners:
            owner = next(n for n, m in model.named_modules() if m is owners[key])
            return f"{_part(name)}; name the layer, {owner or 'the model'}"
    why = [f"{name or 'the model'}: {reasons[name]}" for name in found.values() if reasons.get(name)]
    why += [f"{n}: analog already" for n in found.values() if isinstance(model.get_submodule(n), AnalogLayer)]
    return f"applies to no layer ({'; '.join(why[:5]) or 'no layer has weights'}); leave it out"


def _warn_parts(entry: str, parts: list[str]) -> None:
    if parts:
        warnings.warn(
            f"convert: hardware[{entry!r}] {_part(min(parts))}; name the layer to give it this one",
            UserWarning,
            stacklevel=4,
        )


def _part(name: str) -> str:
    return f"names {name}, which is a part of a layer, and all parts of a layer have the hardware of the layer"


def check_tied_hardware(model: nn.Module, names: list[str], chosen: dict[int, Hardware]) -> None:
    """Raise ``ValueError`` if layers that share a weight would get different hardware."""
    users: dict[int, tuple[str, Hardware]] = {
        id(layer.weight): (name, layer.hardware) for name, layer in analog_layers(model).items()
    }
    for name in names:
        module = model.get_submodule(name)
        for key, parameter in module.named_parameters():
            if "bias" in key:
                continue
            other, hardware = users.setdefault(id(parameter), (name, chosen[id(module)]))
            if hardware != chosen[id(module)]:
                raise ValueError(
                    f"convert: {other or 'the model'} and {name or 'the model'} share a weight ({key}), but their "
                    "hardware differs; choose the same for both, or untie the weight"
                )


def _kind(value: Any) -> str:
    return f"class {value.__name__}" if isinstance(value, type) else type(value).__name__
