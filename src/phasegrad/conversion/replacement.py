"""From a digital model to an analog one, and back."""

from __future__ import annotations

import copy
from typing import Any, TypeVar, overload

from torch import nn

from phasegrad.conversion.counterparts import make_counterpart
from phasegrad.conversion.fused_paths import close_fused_paths, open_fused_paths
from phasegrad.conversion.selection import REASONS, Selection, judge, left_digital, selected
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
from phasegrad.nn.ddp import heed_in_ddp
from phasegrad.nn.layer_state import check_state_dict
from phasegrad.stores.programmed import assign_devices, blank_devices
from phasegrad.stores.sharing import Exchanges, sharing

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
    """Copy a model, with its layers computed in crossbar tiles.

    Linear, convolutional, attention and recurrent layers become their analog counterparts, and what
    :func:`phasegrad.conversion.register_counterpart` registered. Modules that occur in several places stay one
    module, and parameters that are shared stay shared. What stays digital, and why, is in :func:`left_digital` and
    :func:`phasegrad.summary`.

    Args:
        model: an ordinary model; left as it is.
        hardware: the hardware of every converted layer.
        only: convert only these modules: a filter ``(module, name) -> bool``, or names. A name selects the module of
            this full name, otherwise every module whose name ends with it after a dot, with their submodules; a single
            string that is no name is a regular expression that full names must match.
        skip: leave these modules digital; as ``only``.

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
    chosen = {id(m) for n, m in selected(model, only, "only")} if only is not None else None
    skipped = {id(m) for n, m in selected(model, skip, "skip")} if skip is not None else set()
    reasons = judge(model, chosen, skipped)
    if all(reasons.values()):
        found = "; ".join(f"{name or 'the model'}: {why}" for name, why in reasons.items()) or "no layer has weights"
        raise ValueError(f"convert: nothing to convert ({found})")
    net = copy.deepcopy(model)
    left = {name: why for name, why in reasons.items() if why is not None}
    with sharing() as exchanges:
        net = _replace(net, _counterparts(net, [name for name in reasons if name not in left], hardware))
    close_fused_paths(net)
    setattr(net, REASONS, left)
    _check_ties(net, exchanges)
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
    with sharing():
        net = _replace(
            net,
            {id(counterpart): _keep_hooks(counterpart, counterpart.to_digital()) for counterpart in _reversible(net)},
        )
    open_fused_paths(net)
    if hasattr(net, REASONS):
        delattr(net, REASONS)
    hooks = net._load_state_dict_pre_hooks
    for key in [k for k, hook in hooks.items() if getattr(hook, "hook", None) is _check_state_dict]:
        del hooks[key]
    return net


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


def _check_ties(net: nn.Module, exchanges: Exchanges) -> None:
    """A weight that moved into the memory cannot be digital elsewhere."""
    for name, module in net.named_modules():
        for key, parameter in module._parameters.items():
            if id(parameter) not in exchanges:
                continue
            moved = next(n for n, m in analog_layers(net).items() if m.weight is exchanges[id(parameter)][1])
            raise ValueError(
                f"convert: {moved} and {name or 'the model itself'} share a weight ({key}), which would be trained in "
                f"the memory there and stay digital here ({left_digital(net).get(name)}). Skip {moved} too, or untie "
                "them"
            )


def _counterparts(net: nn.Module, names: list[str], hardware: Hardware) -> dict[int, nn.Module]:
    """The analog modules that take the places of digital ones, by the digital one's id."""
    counterparts: dict[int, nn.Module] = {}
    first: dict[int, AnalogLayer] = {}
    for name in names:
        digital = net.get_submodule(name)
        counterparts[id(digital)] = counterpart = _keep_hooks(digital, make_counterpart(digital, hardware))
        for layer in analog_layers(counterpart).values():
            tied = first.setdefault(id(layer.weight), layer)
            if tied is not layer and type(tied) is type(layer):  # the same tiles
                layer.converters = tied.converters
    return counterparts


def _reversible(net: nn.Module) -> list[Any]:
    """The outermost modules that know their digital counterpart."""
    found: dict[int, nn.Module] = {}

    def visit(module: nn.Module) -> None:
        if callable(getattr(module, "to_digital", None)):
            found[id(module)] = module
            return
        for child in module.children():
            visit(child)

    visit(net)
    return list(found.values())


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
    return replacements.get(id(net), net)


def _check_state_dict(net: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before anything is copied: is every layer of the state dict of this net's Hardware? Tied layers share devices."""
    layers = analog_layers(net)
    for name, module in net.named_modules():
        if isinstance(module, AnalogComposite):
            module.rename_float_keys(state_dict, f"{prefix}{name}." if name else prefix)
    keys = {name: f"{prefix}{name}." if name else prefix for name in layers}
    for name, layer in layers.items():
        check_state_dict(layer, state_dict, keys[name])
    tied: dict[int, AnalogLayer] = {}
    programmed = [m for n, m in layers.items() if m.devices is None and f"{keys[n]}devices.conductance" in state_dict]
    untie(net, programmed)
    for layer in programmed:
        first = tied.setdefault(id(layer.weight), layer)
        assign_devices(layer, first.devices or blank_devices(layer))
