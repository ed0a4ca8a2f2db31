"""Writes to the parameter of a weight that lives on devices: its next use programs them, or says why it cannot.

Writing the weight means "program this". It happens at the next use, because only then is it known that the write is
over, and one warning names the layers. What cannot mean that is refused: a weight that another module computes, as for
pruning, tensors that ``torch.func.functional_call`` passes for one call, and any write to a frozen mean.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from phasegrad.crossbar.streams import draw_seed
from phasegrad.deprecation import users_stack_level
from phasegrad.stores.base import StoredLayer
from phasegrad.stores.in_memory_weight import InMemoryWeight
from phasegrad.stores.programmed import program, sync_devices
from phasegrad.stores.refused_writes import (
    check_frozen,
    check_passed,
    check_programmable,
    check_shape,
    differs,
    refuse_computed,
)
from phasegrad.stores.watched_weight import Assigned, FrozenWeight, ProgrammedWeight, WatchedWeight


def note_weight(layer: StoredLayer, value: nn.Parameter | None) -> None:
    """Note that a layer whose weight is a copy is about to register a parameter as its weight."""
    if isinstance(value, WatchedWeight) and value.devices is layer.devices:
        value.users.add(layer)
        layer.assigned = None
        return
    own = registered(layer) if layer.assigned is None else layer.assigned.own
    if value is not None and isinstance(own, WatchedWeight):
        layer.assigned = Assigned(value, own)


def registered(layer: StoredLayer) -> Tensor | None:
    """The registered parameter ``weight``; a plain tensor in ``functional_call``; ``None`` if there is none."""
    return cast("nn.Module", layer)._parameters.get("weight")


def is_current(layer: StoredLayer) -> bool:
    """Whether the weight of a layer is its own parameter, and nobody can have written it since it was refreshed."""
    weight = registered(layer)
    return isinstance(weight, WatchedWeight) and weight.is_current and weight.devices is layer.devices


def wrap_restored(layer: StoredLayer) -> None:
    """After a layer was copied or unpickled, make its weight its own; a pickle holds a plain parameter."""
    weight, assigned = registered(layer), layer.assigned
    if not layer.holds_copy or (layer.devices is None and layer.noiseless is None):
        return
    if assigned is not None:
        layer.assigned = assigned._replace(own=_wrapped(layer, assigned.own))
        layer.assigned.own.users.add(layer)
    elif isinstance(weight, nn.Parameter):
        _register(layer, _wrapped(layer, weight))


def _register(layer: StoredLayer, weight: WatchedWeight) -> None:
    cast("nn.Module", layer).register_parameter("weight", weight)


def _wrapped(layer: StoredLayer, weight: nn.Parameter) -> WatchedWeight:
    """A parameter as the weight of the layer's devices; layers that are tied get the same one."""
    if isinstance(weight, WatchedWeight) and weight.devices is layer.devices:
        return weight
    found: Any = getattr(weight, "successor", None)
    if found is None or found.devices is not layer.devices:
        if layer.devices is None:
            found = FrozenWeight.wrap(weight, None, weight.requires_grad)
        elif layer.hardware.pulses is None:
            found = ProgrammedWeight.wrap(weight, layer.devices, weight.requires_grad)
        else:
            found = InMemoryWeight(weight, layer.devices, layer.layout).requires_grad_(weight.requires_grad)
        weight.successor = found  # type: ignore[attr-defined]
    return found


def _fits(successor: WatchedWeight, layer: StoredLayer, weight: Tensor) -> bool:
    """Whether the successor of a weight that was moved for one layer also serves another one."""
    return successor.devices is layer.devices and successor.device == weight.device


def follow_move(layer: StoredLayer, before: Tensor | None, dtype: torch.dtype | None) -> None:
    """After a move to another device or dtype, make the weight of a layer the copy of its devices again.

    Args:
        layer: the layer.
        before: its weight before the move, for which torch may have registered a plain parameter.
        dtype: the dtype of that weight.
    """
    weight = registered(layer)
    if not isinstance(before, WatchedWeight) or weight is None:
        return
    if not isinstance(weight, WatchedWeight):
        found = before.successor
        if found is None or not _fits(found, layer, weight):
            found = before.successor = before.like(weight, layer.devices)
        _register(layer, found)
        weight = found
    if weight.dtype != dtype and layer.devices is not None and not _lacks_values(layer, weight):
        sync_devices(layer)  # rounding the copy does not round the devices
    weight.mark_current()


@torch.no_grad()
def note_loaded(layer: StoredLayer, with_weight: bool) -> None:
    """After a state dict with devices was loaded, make the weight of a layer its own; see ``_follow_loaded``.

    Args:
        layer: the layer.
        with_weight: whether the state dict had the weight too.
    """
    weight, assigned = registered(layer), layer.assigned
    assert isinstance(weight, nn.Parameter)
    if assigned is not None and assigned.value is weight:  # by load_state_dict(..., assign=True)
        own = assigned.own
        if (own.device, own.dtype, own.shape) == (weight.device, weight.dtype, weight.shape):
            own.copy_(weight)
        elif own.successor is not None and _fits(own.successor, layer, weight):
            own = own.successor  # of a layer that is tied to this one
        else:
            own.successor = own.like(weight.clone(), layer.devices)
            own = own.successor
        weight = own
    weight = _wrapped(layer, weight)
    _register(layer, weight)
    weight.mark_loaded(with_weight)


def take_writes(layers: Mapping[str, StoredLayer], used: Collection[StoredLayer] | None = None) -> None:
    """Program the devices of all layers whose weight was written, and warn once with their names.

    Args:
        layers: layers whose weight is a copy, by name.
        used: those that are about to be used; ``None`` for all. Others are looked at only for writes.

    Raises:
        RuntimeError: a write cannot be programmed; nothing was changed.
        ValueError: a written weight has another shape or values that are not finite; nothing was changed.
    """
    written = {}
    for name, layer in layers.items():
        if not is_current(layer):
            name = name or _described(layer)
            value = _written_value(name, layer, used is None or any(layer is other for other in used))
            if value is not None:
                written[name] = (layer, value)
    if not written:
        return
    clipped = [name for name, (layer, value) in written.items() if _exceeds_scale(layer, value)]
    for layer, value in written.values():
        _program(layer, value)
    beyond = f" Values beyond hardware.scale were clipped in {', '.join(clipped)}." if clipped else ""
    warnings.warn(
        f"{', '.join(written)}: the weight was written, but it is a copy of what the devices store. The devices were "
        "programmed with the new weight, with the errors of programming and at the present time; a learned input range "
        f"is widened for the next inputs.{beyond} To write weights without this warning, write the digital net and "
        "program it with pg.inference.program, or load a state dict with load_state_dict",
        UserWarning,
        stacklevel=users_stack_level(),
    )


def _exceeds_scale(layer: StoredLayer, value: Tensor) -> bool:
    """Whether a weight has values that the cells cannot store, because the scale is not derived from the weight."""
    scale = layer.hardware.scale
    return not isinstance(scale, str) and bool(value.abs().max() > scale)


@torch.no_grad()
def _program(layer: StoredLayer, value: Tensor) -> None:
    _restore_own(layer, value)
    layer.range_is_stale = True
    if not is_current(layer):  # a tied layer may have programmed the devices that both share
        with torch.autocast(value.device.type, enabled=False):
            program(layer, draw_seed(value.device), converters=False)


def take_writes_of(weights: Iterable[WatchedWeight]) -> None:
    """Program the devices of weights that were written, for an optimizer, which knows no layers."""
    for weight in weights:
        if not weight.is_current:
            take_writes({_described(layer): layer for layer in list(weight.users)})


def _described(layer: StoredLayer) -> str:
    return f"{type(layer).__name__} [{layer.out_features}, {layer.in_features}]"


def _written_value(name: str, layer: StoredLayer, used: bool) -> Tensor | None:
    """The value that was written to the weight of a layer, or ``None`` if it is still the one of the devices."""
    weight = registered(layer)
    assigned = layer.assigned is not None and layer.assigned.value is weight
    own = isinstance(weight, WatchedWeight) and weight.devices is layer.devices
    if isinstance(weight, WatchedWeight) and own:
        if weight.is_unwritten:
            return None
    if not own and not assigned and not used:
        return None
    if weight is None:
        refuse_computed(name, layer)
    if _lacks_values(layer, weight):
        return None
    if not own and not assigned:
        check_passed(name, layer, weight)
        return None
    if own and cast("WatchedWeight", weight).was_loaded_last:
        _follow_loaded(name, layer, weight)
        return None
    if layer.noiseless is not None:
        check_frozen(name, layer, weight)
        if own:
            cast("WatchedWeight", weight).mark_current()
        return None
    check_shape(name, layer, weight)
    if not differs(layer, weight):
        _restore_own(layer, None)
        return None
    check_programmable(name, layer, weight)
    return weight


def _lacks_values(layer: StoredLayer, weight: Tensor) -> bool:
    devices = layer.devices
    return weight.is_meta or (devices is None and layer.noiseless is None) or (
        devices is not None and devices.conductance.is_meta
    )  # fmt: skip


def _restore_own(layer: StoredLayer, value: Tensor | None) -> None:
    """Register a layer's own weight in place of one that was assigned, and write the value into it.

    Layers that are still tied to each other share the result. Where one of several tied layers was untied by the
    assignment, it gets devices of its own, because the shared ones keep the weight of the others.
    """
    assigned = layer.assigned
    if assigned is None or registered(layer) is not assigned.value:
        if value is None:
            cast("WatchedWeight", registered(layer)).mark_current()
        return
    own, users = assigned.own, [user for user in assigned.own.users if _known(user, assigned.own)]
    together = [user for user in users if user.assigned is not None and user.assigned.value is assigned.value]
    if len(together) < len(users) and value is not None:
        own = _separate(own)
    for user in {id(user): user for user in (*together, layer)}.values():
        user.devices = own.devices
        _register(user, own)
    if value is None:
        own.mark_current()
    else:
        own.copy_(value)


def _known(user: StoredLayer, own: WatchedWeight) -> bool:
    """Whether a layer still has this weight, or had it until another was assigned."""
    return registered(user) is own or (user.assigned is not None and user.assigned.own is own)


def _separate(shared: WatchedWeight) -> WatchedWeight:
    """A weight on devices of its own, at the time and temperature of the shared ones."""
    devices = copy.deepcopy(shared.devices)
    assert devices is not None
    for array in (devices, devices.fast, devices.reference):
        if array is not None:
            array.expect(frozenset())  # other devices: programming draws their faults and parameters
            if array.step_parameters is not None:
                array.step_parameters.zero_()
    return shared.like(torch.clone(shared), devices)


def _follow_loaded(name: str, layer: StoredLayer, weight: Tensor) -> None:
    """After a state dict was loaded, its devices count; say so if its weight is another one."""
    if layer.noiseless is not None:
        check_frozen(name, layer, weight)
        cast("WatchedWeight", weight).mark_current()
        return
    if not differs(layer, weight):
        cast("WatchedWeight", weight).mark_current()
        return
    alone = cast("WatchedWeight", weight).loaded_alone
    sync_devices(layer)
    if alone:
        return
    warnings.warn(
        f"{name}: the state dict that was loaded has another weight than its devices store, and the devices count. To "
        "program the weight, leave the entries of the devices out of the state dict",
        UserWarning,
        stacklevel=users_stack_level(),
    )
