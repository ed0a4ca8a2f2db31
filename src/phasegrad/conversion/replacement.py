"""Replacement of the layers of a model by analog counterparts, and back."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Sequence
from typing import Any, TypeVar, overload

from torch import nn

from phasegrad import argument_checks as checks
from phasegrad.conversion.counterparts import LAZY, make_counterpart, what_users_added
from phasegrad.conversion.fused_paths import close_fused_paths, open_fused_paths
from phasegrad.conversion.hardware_choice import (
    HardwareChoice,
    check_choice,
    check_entries,
    check_tied_hardware,
    choose_hardware,
)
from phasegrad.conversion.in_place import become, carry_attributes, rebind, replace_submodules, restore_attributes
from phasegrad.conversion.known_faults import program_known_faults
from phasegrad.conversion.originals import copies, warn_about_originals
from phasegrad.conversion.resizing import allow_resizing, refuse_resizing
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
from phasegrad.nn.chip_age import stop_sharing_age
from phasegrad.nn.copying import copy_net, refuse_shared
from phasegrad.nn.ddp import undo_ignore_in_ddp
from phasegrad.nn.known_faults import FaultSource
from phasegrad.nn.layer import take_writes_of_net
from phasegrad.nn.layer_state import check_state_dict
from phasegrad.nn.lazy import becomes_analog, keep_digital, make_analog_when_initialised, require_initialised
from phasegrad.nn.state_keys import check_keys
from phasegrad.stores import Noiseless, Programmed
from phasegrad.stores.programmed import assign_devices, blank_devices
from phasegrad.stores.sharing import Exchanges, exchange_parameters, sharing
from phasegrad.stores.watched_weight import WatchedWeight

Module = TypeVar("Module", bound=nn.Module)


@overload
def convert(
    model: nn.Linear, hardware: HardwareChoice, *, only: Selection | None = None, skip: Selection | None = None,
    faults: FaultSource = None, map_around: Sequence[str] = (),
) -> AnalogLinear: ...  # fmt: skip
@overload
def convert(
    model: nn.Conv1d, hardware: HardwareChoice, *, only: Selection | None = None, skip: Selection | None = None,
    faults: FaultSource = None, map_around: Sequence[str] = (),
) -> AnalogConv1d: ...  # fmt: skip
@overload
def convert(
    model: nn.Conv2d, hardware: HardwareChoice, *, only: Selection | None = None, skip: Selection | None = None,
    faults: FaultSource = None, map_around: Sequence[str] = (),
) -> AnalogConv2d: ...  # fmt: skip
@overload
def convert(
    model: nn.Conv3d, hardware: HardwareChoice, *, only: Selection | None = None, skip: Selection | None = None,
    faults: FaultSource = None, map_around: Sequence[str] = (),
) -> AnalogConv3d: ...  # fmt: skip
@overload
def convert(
    model: nn.LSTM, hardware: HardwareChoice, *, only: Selection | None = None, skip: Selection | None = None,
    faults: FaultSource = None, map_around: Sequence[str] = (),
) -> AnalogLSTM: ...  # fmt: skip
@overload
def convert(
    model: nn.GRU, hardware: HardwareChoice, *, only: Selection | None = None, skip: Selection | None = None,
    faults: FaultSource = None, map_around: Sequence[str] = (),
) -> AnalogGRU: ...  # fmt: skip
@overload
def convert(
    model: nn.MultiheadAttention, hardware: HardwareChoice, *, only: Selection | None = None,
    skip: Selection | None = None, faults: FaultSource = None, map_around: Sequence[str] = (),
) -> AnalogMultiheadAttention: ...  # fmt: skip
@overload
def convert(
    model: Module, hardware: HardwareChoice, *, only: Selection | None = None, skip: Selection | None = None,
    faults: FaultSource = None, map_around: Sequence[str] = (),
) -> Module: ...  # fmt: skip
def convert(
    model: nn.Module, hardware: HardwareChoice, *, only: Selection | None = None, skip: Selection | None = None,
    faults: FaultSource = None, map_around: Sequence[str] = (),
) -> nn.Module:  # fmt: skip
    """Copy a model and replace its layers by analog counterparts, which are computed in crossbar tiles.

    Linear, convolutional, attention and recurrent layers are converted, and the types that were registered with
    ``phasegrad.conversion.register_counterpart``. A module that occurs in several places stays one module, also in
    lists and other attributes of the model, and shared parameters stay shared. ``left_digital`` and
    ``phasegrad.summary`` report which modules stay digital, and why: those that a counterpart could not represent, such
    as a layer whose ``forward`` was replaced, are among them. A lazy layer becomes analog in its first forward pass.

    Args:
        model: a digital model, or a net that is partly converted; it is not changed.
        hardware: the hardware of every converted layer; or a dictionary of hardware by names of modules, of which the
            first that selects a module counts; or a function ``(module, name) -> Hardware | None``. Modules without
            hardware stay digital. A name selects modules as in ``only``, and may be a regular expression. All parts of
            a layer, such as ``out_proj`` of an attention layer, have the hardware of the layer.
        only: the modules to convert: a filter ``(module, name) -> bool``, or names. A name selects the module with this
            full name, or else every module whose name ends with a dot and this name, including submodules. A single
            string that matches no name is a regular expression that full names must match.
        skip: the modules to leave digital, selected as in ``only``.
        faults: known faults of devices that are trained in the memory: [`Faults`][phasegrad.devices.Faults], or a
            [`FaultMap`][phasegrad.devices.FaultMap] for the names of layers; ``None`` for ``hardware.faults``. Other
            devices are programmed by [`program`][phasegrad.inference.program], which takes the same arguments.
        map_around: ways to program around these faults: ``"pair"``, ``"columns"``, both or none.

    Returns:
        The converted copy, in the training mode of the model.

    Warns:
        UserWarning: a function that the model calls refers to one of its layers other than through the model, as a
            closure does; it will call the digital original. Or an entry of ``hardware`` also names a part of a layer.

    Raises:
        ValueError: the model is already converted and ``only`` names no digital layer, it is programmed, the model has
            no module of a given name, no module is left to convert, an entry of ``hardware`` applies to no layer,
            layers with a common weight have different hardware, a layer cannot be copied, or a lazy layer, whose shape
            is not known yet, should be trained in memory, or ``faults`` do not fit the layers.
        TypeError: ``model`` is not an ``nn.Module``, or ``hardware`` is not a [`Hardware`][phasegrad.Hardware], a
            dictionary or a function of one.

    Examples:
        >>> import phasegrad as pg
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> net = convert(model, pg.presets.pcm_inference(), skip=["2"])
        >>> type(net[0]).__name__, type(net[2]).__name__
        ('AnalogLinear', 'Linear')
        >>> net = convert(net, pg.presets.ideal_inference(), only=["2"])  # other hardware for the last layer
        >>> type(net[2]).__name__
        'AnalogLinear'
    """
    _check_arguments(model, hardware, only)
    chosen = {id(m) for n, m in selected(model, only, "only")} if only is not None else None
    skipped = {id(m) for n, m in selected(model, skip, "skip")} if skip is not None else set()
    by_module = choose_hardware(model, hardware)
    reasons = reasons_to_stay_digital(model, chosen, skipped, by_module)
    left = {name: why for name, why in reasons.items() if why is not None}
    layers = {n: by_module[id(model.get_submodule(n))] for n, why in reasons.items() if why is None or why == LAZY}
    changed = {n: why for n, why in left.items() if why == what_users_added(model.get_submodule(n))}
    if not layers and not changed:
        details = "; ".join(f"{name or 'the model'}: {why}" for name, why in left.items()) or "no layer has weights"
        raise ValueError(f"convert: nothing to convert ({details})")
    _check_lazy(layers, left)
    check_entries(model, hardware, reasons)
    check_tied_hardware(model, [name for name in layers if name not in left], by_module)
    net = copy_net(model)
    refuse_shared("convert", model, net, layers)
    with sharing() as exchanges:
        net = _become_analog(net, {n: hardware for n, hardware in layers.items() if n not in left}, model)
    for name in (name for name in layers if name in left):
        make = functools.partial(_become_counterpart, layers[name])
        make_analog_when_initialised(net.get_submodule(name), layers[name], make)
    close_fused_paths(net)
    refuse_resizing(net)
    setattr(net, REASONS, left)
    _check_ties(net, exchanges)
    if faults is not None or len(map_around):
        program_known_faults(net, exchanges, faults, map_around)
    _warn_changed(changed)
    warn_about_originals(model, net, list(reasons))
    if _check_state_dict not in [getattr(hook, "hook", None) for hook in net._load_state_dict_pre_hooks.values()]:
        net.register_load_state_dict_pre_hook(_check_state_dict)
    return ignore_in_ddp(net)


def to_digital(net: nn.Module, *, only: Selection | None = None) -> nn.Module:
    """Copy a converted net and replace its analog layers by digital ones with the present weights.

    The weights of a programmed net are those that its devices store at its present time, including drift and drift
    compensation.

    Args:
        net: a converted net; it is not changed.
        only: the layers to replace, selected as in [`convert`][phasegrad.convert]; ``None`` for all, and no names for
            none.

    Raises:
        ValueError: the net has no analog layer, no module of a given name, or none of the named modules is analog; or a
            layer that is named shares its weight with an analog layer that is not.
    """
    if not analog_layers(checks.module("to_digital", "net", net)):
        raise ValueError("to_digital: the net has no analog layer; it is already digital")
    names = _named_counterparts(net, only)
    take_writes_of_net(net)
    original, net = net, copy_net(net)
    undo_ignore_in_ddp(net)
    with sharing() as exchanges:
        made = [(counterpart, counterpart.to_digital()) for counterpart in _at(net, names)]
        classes, replaced = {id(counterpart): type(counterpart) for counterpart, _ in made}, {}
        for counterpart, digital in made:
            restore_attributes(counterpart, digital)
            replaced[id(counterpart)] = become(counterpart, digital)
    net = replace_submodules(net, replaced)
    exchange_parameters(net, exchanges)
    rebind(net, classes, {}, original)
    if analog_layers(net):
        setattr(net, REASONS, {**getattr(net, REASONS, {}), **dict.fromkeys(names, "named in only of to_digital")})
        return ignore_in_ddp(net)
    for module in net.modules():
        keep_digital(module)
    open_fused_paths(net)
    allow_resizing(net)
    stop_sharing_age(net)
    if hasattr(net, REASONS):
        delattr(net, REASONS)
    hooks = net._load_state_dict_pre_hooks
    for key in [k for k, hook in hooks.items() if getattr(hook, "hook", None) is _check_state_dict]:
        del hooks[key]
    return net


def _check_arguments(model: nn.Module, hardware: HardwareChoice, only: Selection | None) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert: model is a {type(model).__name__}; it must be a torch.nn.Module")
    check_choice(hardware)
    present = analog_layers(model)
    if not present:
        return
    first, everything = next(iter(present)), only is None and isinstance(hardware, Hardware)
    if everything or isinstance(model, (AnalogLayer, AnalogComposite)):
        raise ValueError(
            f"convert: the model is converted already ({first or 'the model itself'} is analog); name the layers that "
            "are still digital in only, convert the digital model, or call pg.to_digital first"
        )
    for name, layer in present.items():
        if isinstance(layer.store, (Programmed, Noiseless)):
            raise ValueError(
                f"convert: {name} is {layer.store.name}; convert the net that the chip was programmed from, and then "
                "program it again"
            )
    for name in [only] if isinstance(only, str) else () if only is None or callable(only) else only:
        if name in present:
            raise ValueError(
                f"convert: only names {name!r}, which is analog already; name digital layers, or call pg.to_digital "
                "first"
            )


def _warn_changed(changed: dict[str, str]) -> None:
    """Warn about layers that stay digital because of what users changed in them."""
    if changed:
        first = [f"{name or 'the model'}: {why}" for name, why in itertools.islice(changed.items(), 5)]
        more = f"; and {len(changed) - 5} more, see left_digital" if len(changed) > 5 else ""
        warnings.warn(
            f"convert: these layers stay digital ({'; '.join(first)}{more}). Undo the change, register a counterpart "
            "with phasegrad.conversion.register_counterpart, or name them in skip if this is intended",
            UserWarning,
            stacklevel=3,
        )


def _check_lazy(layers: dict[str, Hardware], left: dict[str, str]) -> None:
    """Raise for lazy layers to train in memory: an optimizer would keep the parameters that are moved there."""
    for name, hardware in layers.items():
        if name in left and hardware.pulses is not None:
            raise ValueError(
                f"convert: the shape of {name or 'the model'} is not known before the first forward pass, and its "
                "hardware trains in memory, where its devices are needed at once; run the model once first"
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


def _become_analog(net: nn.Module, layers: dict[str, Hardware], model: nn.Module) -> nn.Module:
    """Turn the named modules of a copy of a model into their counterparts; return the copy, or its counterpart."""
    copied = copies(model, net)
    digital = {name: net.get_submodule(name) for name in layers}
    classes = {id(module): type(module) for module in digital.values()}
    first: dict[int, AnalogLayer] = {}
    replaced: dict[int, nn.Module] = {}
    for name, module in digital.items():
        replaced[id(module)] = counterpart = _become_counterpart(layers[name], module)
        for layer in analog_layers(counterpart).values():
            tied = first.setdefault(id(layer.weight), layer)
            if tied is not layer and type(tied) is type(layer):  # both use the same tiles
                layer.converters = tied.converters
    net = replace_submodules(net, replaced)
    rebind(net, classes, copied, model)
    return net


def _become_counterpart(hardware: Hardware, digital: nn.Module) -> nn.Module:
    counterpart = make_counterpart(digital, hardware)
    if isinstance(counterpart, (AnalogLayer, AnalogComposite)) and counterpart is not digital:
        carry_attributes(digital, counterpart, counterpart._make_digital)
    module = become(digital, counterpart)
    if isinstance(module, AnalogLayer) and isinstance(module.weight, WatchedWeight):
        module.weight.users.add(module)  # the weight knew the object that the module replaces
    return module


def counterparts(net: nn.Module) -> dict[str, nn.Module]:
    """The outermost modules with a ``to_digital`` method, by name; one in several places is listed once."""
    found: dict[int, str] = {}

    def visit(module: nn.Module, name: str) -> None:
        if callable(getattr(module, "to_digital", None)):
            found.setdefault(id(module), name)
            return
        for key, child in module.named_children():
            visit(child, f"{name}.{key}" if name else key)

    visit(net, "")
    return {name: net.get_submodule(name) for name in found.values()}


def _at(net: nn.Module, names: list[str]) -> list[Any]:
    return [net.get_submodule(name) for name in names]


def _named_counterparts(net: nn.Module, only: Selection | None) -> list[str]:
    """The names of the counterparts that ``to_digital`` replaces."""
    present = counterparts(net)
    if only is None:
        return list(present)
    chosen = {id(module) for _, module in selected(net, only, "only")}
    names = [name for name, module in present.items() if id(module) in chosen]
    if chosen and not names:
        raise ValueError(f"to_digital: only = {checks.shown(only)} names no analog layer; the net has {list(present)}")
    _check_ties_of(present, names)
    return names


def _check_ties_of(present: dict[str, nn.Module], names: list[str]) -> None:
    """Raise if a layer that becomes digital shares its weight with one that stays analog."""
    chosen = {id(layer.weight): name for name in names for layer in analog_layers(present[name]).values()}
    for other in present.keys() - set(names):
        for layer in analog_layers(present[other]).values():
            if id(layer.weight) in chosen:
                raise ValueError(
                    f"to_digital: {chosen[id(layer.weight)]} and {other} share a weight; name both in only, or neither"
                )


def _check_state_dict(net: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Check the state dict for every layer before anything is copied; let tied layers share devices."""
    layers = analog_layers(net)
    for name, module in net.named_modules():
        if becomes_analog(module) and f"{prefix}{name}.configuration".replace("..", ".") in state_dict:
            require_initialised(net, "load_state_dict")
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
