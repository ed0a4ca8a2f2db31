"""From a digital model to an analog one, and back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, TypeVar

from torch import nn

from phasegrad.crossbar import Hardware
from phasegrad.nn.conv import AnalogConv1d, AnalogConv2d, AnalogConv3d
from phasegrad.nn.layer import AnalogLayer
from phasegrad.nn.linear import AnalogLinear
from phasegrad.nn.processes import heed_in_ddp, ignore_in_ddp

Selection: TypeAlias = Iterable[str] | Callable[[str, nn.Module], bool]
"""Names of modules (each with all that it contains), or a predicate of name and module."""

Module = TypeVar("Module", bound=nn.Module)

_TWINS: dict[type[nn.Module], type[AnalogLayer]] = {
    nn.Linear: AnalogLinear,
    nn.Conv1d: AnalogConv1d,
    nn.Conv2d: AnalogConv2d,
    nn.Conv3d: AnalogConv3d,
}
_REASONS = "_phasegrad_left_digital"


def analog_layers(net: nn.Module) -> dict[str, AnalogLayer]:
    """The analog layers of a net by name, each object once."""
    return {name: m for name, m in net.named_modules() if isinstance(m, AnalogLayer)}


def convert(
    model: nn.Module, hardware: Hardware, *, only: Selection | None = None, skip: Selection | None = None
) -> nn.Module:
    """Copy a model, with its layers computed in crossbar tiles.

    ``nn.Linear`` and ``nn.Conv1d/2d/3d`` become their analog twins. Modules that occur in several places stay one
    module, and parameters that are shared stay shared. What stays digital, and why, is in :func:`left_digital` and
    :func:`phasegrad.summary`.

    Args:
        model: an ordinary model; left as it is.
        hardware: the hardware of every converted layer.
        only: convert these alone.
        skip: leave these digital.

    Returns:
        The converted copy, in the model's training mode.

    Raises:
        ValueError: the model is converted already; a name is not in it; nothing is left to convert.
        TypeError: ``model`` is no module, or ``hardware`` no :class:`Hardware`.

    Examples:
        >>> import phasegrad as pg
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> net = convert(model, pg.presets.pcm_inference(), skip=["2"])
        >>> type(net[0]).__name__, type(net[2]).__name__
        ('AnalogLinear', 'Linear')
    """
    _check(model, hardware)
    chosen = {id(m) for n, m in _selected(model, only, "only")} if only is not None else None
    skipped = {id(m) for n, m in _selected(model, skip, "skip")} if skip is not None else set()
    reasons = _judge(model, chosen, skipped)
    if all(reasons.values()):
        found = "; ".join(f"{name or 'the model'}: {why}" for name, why in reasons.items()) or "no layer has weights"
        raise ValueError(f"convert: nothing to convert ({found})")
    if hardware.update is not None:
        _check_ties(model, reasons)
    net = copy.deepcopy(model)
    net = _replace(net, _twins(net, [name for name, why in reasons.items() if why is None], hardware))
    left = {name: why for name, why in reasons.items() if why is not None}
    setattr(net, _REASONS, left)
    net.register_load_state_dict_pre_hook(_check_state_dict)
    return ignore_in_ddp(net)


def to_digital(net: nn.Module) -> nn.Module:
    """Copy a converted net back to digital layers, with the weights that it holds now.

    A programmed net gives what its devices hold at its present time, drift and compensation included.

    Raises:
        ValueError: the net has no analog layer.
    """
    if not analog_layers(net):
        raise ValueError("to_digital: the net has no analog layer; it is digital already")
    net = copy.deepcopy(net)
    heed_in_ddp(net)
    digital = {id(layer): _keep_hooks(layer, layer.to_digital()) for layer in analog_layers(net).values()}
    net = _replace(net, digital)
    if hasattr(net, _REASONS):
        delattr(net, _REASONS)
    hooks = net._load_state_dict_pre_hooks
    for key in [k for k, hook in hooks.items() if getattr(hook, "hook", None) is _check_state_dict]:
        del hooks[key]
    return net


def left_digital(net: nn.Module) -> dict[str, str]:
    """Why each module that has weights of its own is digital, by name."""
    known: dict[str, str] = getattr(net, _REASONS, {})
    return {
        name: known.get(name) or _why_digital(module) or "not converted"
        for name, module in net.named_modules()
        if _has_weights(module) and not isinstance(module, AnalogLayer)
    }


def _check(model: nn.Module, hardware: Hardware) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert: model is a {type(model).__name__}; it must be a torch.nn.Module")
    if not isinstance(hardware, Hardware):
        raise TypeError(
            f"convert: hardware is a {type(hardware).__name__}; it must be a Hardware, such as "
            "pg.presets.pcm_inference()"
        )
    present = list(analog_layers(model))
    if present:
        raise ValueError(
            f"convert: the model is converted already ({present[0] or 'the model itself'} is analog); convert the "
            "digital model, or go back with pg.to_digital first"
        )


def _check_ties(model: nn.Module, reasons: dict[str, str | None]) -> None:
    """A weight in the memory cannot be digital elsewhere."""
    moved = {id(model.get_submodule(name).weight): name for name, why in reasons.items() if why is None}
    for name in [name for name, why in reasons.items() if why is not None]:
        for key, parameter in model.get_submodule(name)._parameters.items():
            if id(parameter) in moved:
                raise ValueError(
                    f"convert: {moved[id(parameter)]} and {name or 'the model itself'} share a weight ({key}), which "
                    f"would be trained in the memory there and stay digital here ({reasons[name]}). Skip "
                    f"{moved[id(parameter)]} too, or untie them"
                )


def _selected(model: nn.Module, selection: Selection, argument: str) -> list[tuple[str, nn.Module]]:
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


def _judge(model: nn.Module, chosen: set[int] | None, skipped: set[int]) -> dict[str, str | None]:
    """For each module with weights of its own why it stays digital, or ``None`` if it is converted."""
    reasons: dict[str, str | None] = {}
    for name, module in model.named_modules():
        if not _has_weights(module):
            continue
        reason = _why_digital(module)
        if reason is None and id(module) in skipped:
            reason = "named in skip"
        elif reason is None and chosen is not None and id(module) not in chosen:
            reason = "not named in only"
        reasons[name] = reason
    return reasons


def _why_digital(module: nn.Module) -> str | None:
    kind = type(module)
    if kind in _TWINS:
        return None if isinstance(module._parameters.get("weight"), nn.Parameter) else "its weight is computed"
    twin = next((t.__name__ for t in _TWINS if issubclass(kind, t)), None)
    if twin is not None:
        return f"{kind.__name__} is a subclass of {twin} and may compute something else"
    return f"no analog twin of {kind.__name__}"


def _twins(net: nn.Module, names: list[str], hardware: Hardware) -> dict[int, nn.Module]:
    """The analog layers that take the places of digital ones, by the digital one's id."""
    twins: dict[int, nn.Module] = {}
    first: dict[int, AnalogLayer] = {}
    for name in names:
        digital = net.get_submodule(name)
        tied, weight = first.get(id(digital.weight)), id(digital.weight)
        if tied is not None:  # in the memory the parameter has become another object
            digital.register_parameter("weight", tied.weight)
        twins[id(digital)] = twin = _twin(digital, hardware)
        if tied is not None and type(tied) is type(twin):  # the same tiles
            twin.converters = tied.converters
        first.setdefault(weight, twin)
    return twins


def _twin(digital: nn.Module, hardware: Hardware) -> AnalogLayer:
    return _keep_hooks(digital, _TWINS[type(digital)].from_digital(digital, hardware))


def _keep_hooks(old: nn.Module, new: Module) -> Module:
    """A user's hooks stay with the place in the net that they were put on."""
    for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        getattr(new, name).update(getattr(old, name))
    new._is_full_backward_hook = old._is_full_backward_hook
    for name in ("_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called"):
        getattr(new, name).update(getattr(old, name))
    return new


def _replace(net: nn.Module, replacements: dict[int, nn.Module]) -> nn.Module:
    """Exchange modules wherever they occur; returns the root, which may be one of them."""
    for parent in list(net.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and id(child) in replacements:
                parent._modules[name] = replacements[id(child)]
        # In evaluation fused transformers would read weights past their modules; this closes those paths.
        if isinstance(parent, nn.TransformerEncoderLayer):
            parent.activation_relu_or_gelu = 0
        if isinstance(parent, nn.TransformerEncoder):
            parent.use_nested_tensor = False
    return replacements.get(id(net), net)


def _check_state_dict(net: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before anything is copied: is every layer of the state dict of this net's Hardware? Tied layers share devices."""
    layers = analog_layers(net)
    keys = {name: f"{prefix}{name}." if name else prefix for name in layers}
    for name, layer in layers.items():
        layer.check_state_dict(state_dict, keys[name])
    tied: dict[int, AnalogLayer] = {}
    for name, layer in layers.items():
        if layer.devices is None and f"{keys[name]}devices.conductance" in state_dict:
            first = tied.setdefault(id(layer.weight), layer)
            layer.expect_devices(first.devices or layer.make_devices())
