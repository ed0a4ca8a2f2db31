"""The hardware of each layer: one for all, by name, or by a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import nn

from phasegrad.conversion.selection import selected
from phasegrad.crossbar import Hardware
from phasegrad.nn import analog_layers

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
