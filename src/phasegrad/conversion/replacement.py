"""Replacement of the layers of a model by analog counterparts, and back."""

from __future__ import annotations

from typing import Any, TypeVar, overload

from torch import nn

from phasegrad.conversion.counterparts import make_counterpart
from phasegrad.conversion.fused_paths import close_fused_paths, open_fused_paths
from phasegrad.conversion.selection import REASONS, Selection, left_digital, reasons_to_stay_digital, selected
from phasegrad.conversion.ties import untie
from phasegrad.crossbar import Hardware
from phasegrad.nn import (
    AnalogComposite,
    AnalogConv1d,
    AnalogConv2d,
    AnalogConv3d,
    AnalogGRU,
    AnalogLayer,
    AnalogLinear,
    AnalogLSTM,
    AnalogMultiheadAttention,
    analog_layers,
    ignore_in_ddp,
)
from phasegrad.nn.copying import copy_net
from phasegrad.nn.ddp import undo_ignore_in_ddp
from phasegrad.nn.layer import take_writes_of_net
from phasegrad.nn.layer_state import check_state_dict
from phasegrad.nn.state_keys import check_keys
from phasegrad.stores.programmed import assign_devices, blank_devices
from phasegrad.stores.sharing import Exchanges, exchange_parameters, sharing

Module = TypeVar("Module", bound=nn.Module)


@overload
def convert(
    model: nn.Linear, hardware: Hardware, *, only: Selection | None = None, skip: Selection | None = None
) -> AnalogLinear: ...
@overload
def convert(
    model: nn.Conv1d, hardware: Hardware, *, only: Selection | None = None, skip: Selection | None = None
) -> AnalogConv1d: ...
@overload
def convert(
    model: nn.Conv2d, hardware: Hardware, *, only: Selection | None = None, skip: Selection | None = None
) -> AnalogConv2d: ...
@overload
def convert(
    model: nn.Conv3d, hardware: Hardware, *, only: Selection | None = None, skip: Selection | None = None
) -> AnalogConv3d: ...
@overload
def convert(
    model: nn.LSTM, hardware: Hardware, *, only: Selection | None = None, skip: Selection | None = None
) -> AnalogLSTM: ...
@overload
def convert(
    model: nn.GRU, hardware: Hardware, *, only: Selection | None = None, skip: Selection | None = None
) -> AnalogGRU: ...
@overload
def convert(
    model: nn.MultiheadAttention, hardware: Hardware, *, only: Selection | None = None, skip: Selection | None = None
) -> AnalogMultiheadAttention: ...
@overload
def convert(
    model: Module, hardware: Hardware, *, only: Selection | None = None, skip: Selection | None = None
) -> Module: ...
def convert(
    model: nn.Module, hardware: Hardware, *, only: Selection | None = None, skip: Selection | None = None
) -> nn.Module:
    """Copy a model and replace its layers by analog counterparts, which are computed in crossbar tiles.

    Linear, convolutional, attention and recurrent layers are converted, and the types that were registered with
    ``phasegrad.conversion.register_counterpart``. A module that occurs in several places stays one module, and
    shared parameters stay shared. ``left_digital`` and ``phasegrad.summary`` report which modules stay digital,
    and why.

    Args:
        model: a digital model; it is not changed.
        hardware: the hardware of every converted layer.
        only: the modules to convert: a filter ``(module, name) -> bool``, or names. A name selects the module with this
            full name, or else every module whose name ends with a dot and this name, including submodules. A single
            string that matches no name is a regular expression that full names must match.
        skip: the modules to leave digital, selected as in ``only``.

    Returns:
        The converted copy, in the training mode of the model.

    Raises:
        ValueError: the model is already converted, the model has no module of a given name, or no module is left to
            convert.
        TypeError: ``model`` is not an ``nn.Module``, or ``hardware`` is not a [`Hardware`][phasegrad.Hardware].

    Examples:
        >>> import phasegrad as pg
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> net = convert(model, pg.presets.pcm_inference(), skip=["2"])
        >>> type(net[0]).__name__, type(net[2]).__name__
        ('AnalogLinear', 'Linear')
    """
    _check_arguments(model, hardware)
    chosen = {id(m) for n, m in selected(model, only, "only")} if only is not None else None
    skipped = {id(m) for n, m in selected(model, skip, "skip")} if skip is not None else set()
    reasons = reasons_to_stay_digital(model, chosen, skipped)
    if all(reasons.values()):
        details = "; ".join(f"{name or 'the model'}: {why}" for name, why in reasons.items()) or "no layer has weights"
        raise ValueError(f"convert: nothing to convert ({details})")
    net = copy_net(model)
    left = {name: why for name, why in reasons.items() if why is not None}
    with sharing() as exchanges:
        net = _replace(net, _make_counterparts(net, [name for name in reasons if name not in left], hardware))
    close_fused_paths(net)
    setattr(net, REASONS, left)
    _check_ties(net, exchanges)
    net.register_load_state_dict_pre_hook(_check_state_dict)
    return ignore_in_ddp(net)


def to_digital(net: nn.Module) -> nn.Module:
    """Copy a converted net and replace its analog layers by digital ones with the present weights.

    The weights of a programmed net are those that its devices store at its present time, including drift and drift
    compensation.

    Raises:
        ValueError: the net has no analog layer.
    """
    if not analog_layers(net):
        raise ValueError("to_digital: the net has no analog layer; it is already digital")
    take_writes_of_net(net)
    net = copy_net(net)
    undo_ignore_in_ddp(net)
    with sharing() as exchanges:
        net = _replace(
            net,
            {
                id(counterpart): _copy_hooks(counterpart, counterpart.to_digital())
                for counterpart in _outermost_counterparts(net)
            },
        )
    exchange_parameters(net, exchanges)
    open_fused_paths(net)
    if hasattr(net, REASONS):
        delattr(net, REASONS)
    hooks = net._load_state_dict_pre_hooks
    for key in [k for k, hook in hooks.items() if getattr(hook, "hook", None) is _check_state_dict]:
        del hooks[key]
    return net


def _check_arguments(model: nn.Module, hardware: Hardware) -> None:
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
            "digital model, or call pg.to_digital first"
        )


def _check_ties(net: nn.Module, exchanges: Exchanges) -> None:
    """Raise if a weight that was moved into the memory is also used by a digital module."""
    for name, module in net.named_modules():
        for key, parameter in module._parameters.items():
            if id(parameter) not in exchanges:
                continue
            moved = next(n for n, m in analog_layers(net).items() if m.weight is exchanges[id(parameter)][1])
            stays = name or "the model itself"
            raise ValueError(
                f"convert: {moved} and {stays} share a weight ({key}), but {moved} would train it in the memory and "
                f"{stays} stays digital ({left_digital(net).get(name)}). Skip {moved} too, or untie the weight"
            )


def _make_counterparts(net: nn.Module, names: list[str], hardware: Hardware) -> dict[int, nn.Module]:
    """Create the analog counterparts of the named modules, by the id of the digital module."""
    counterparts: dict[int, nn.Module] = {}
    first: dict[int, AnalogLayer] = {}
    for name in names:
        digital = net.get_submodule(name)
        counterparts[id(digital)] = counterpart = _copy_hooks(digital, make_counterpart(digital, hardware))
        for layer in analog_layers(counterpart).values():
            tied = first.setdefault(id(layer.weight), layer)
            if tied is not layer and type(tied) is type(layer):  # both use the same tiles
                layer.converters = tied.converters
    return counterparts


def _outermost_counterparts(net: nn.Module) -> list[Any]:
    """The outermost modules with a ``to_digital`` method."""
    found: dict[int, nn.Module] = {}

    def visit(module: nn.Module) -> None:
        if callable(getattr(module, "to_digital", None)):
            found[id(module)] = module
            return
        for child in module.children():
            visit(child)

    visit(net)
    return list(found.values())


def _copy_hooks(old: nn.Module, new: Module) -> Module:
    """Copy the hooks that the user registered on a module to its replacement."""
    for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        getattr(new, name).update(getattr(old, name))
    new._is_full_backward_hook = old._is_full_backward_hook
    for name in ("_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called"):
        getattr(new, name).update(getattr(old, name))
    return new


def _replace(net: nn.Module, replacements: dict[int, nn.Module]) -> nn.Module:
    """Replace modules wherever they occur; return the root, which may itself be replaced."""
    for parent in list(net.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and id(child) in replacements:
                parent._modules[name] = replacements[id(child)]
    return replacements.get(id(net), net)


def _check_state_dict(net: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Check the state dict for every layer before anything is copied; let tied layers share devices."""
    layers = analog_layers(net)
    for name, module in net.named_modules():
        if isinstance(module, AnalogComposite):
            module.rename_float_keys(state_dict, f"{prefix}{name}." if name else prefix)
    keys = {name: f"{prefix}{name}." if name else prefix for name in layers}
    for name, layer in layers.items():
        check_state_dict(layer, state_dict, keys[name])
    check_keys(net, state_dict, prefix, _check_state_dict)
    tied: dict[int, AnalogLayer] = {}
    programmed = [m for n, m in layers.items() if m.devices is None and f"{keys[n]}devices.conductance" in state_dict]
    untie(net, programmed)
    for layer in programmed:
        first = tied.setdefault(id(layer.weight), layer)
        assign_devices(layer, first.devices or blank_devices(layer), None if first is layer else first)
