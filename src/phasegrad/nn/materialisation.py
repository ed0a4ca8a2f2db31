"""Values of a layer whose memory was allocated without any, as ``to_empty`` does after a build on the meta device.

Ranges, converters and the noise level start again as in a new layer. Weights and devices cannot: they are NaN until a
state dict or the user sets them, and a forward pass before that raises.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from phasegrad.crossbar.streams import draw_seed
from phasegrad.stores.in_memory_weight import InMemoryWeight
from phasegrad.stores.programmed import program
from phasegrad.stores.watched_weight import WatchedWeight

if TYPE_CHECKING:
    from phasegrad.nn.layer import AnalogLayer


@torch.no_grad()
def restore(layer: AnalogLayer) -> None:
    """Set the values of a layer after a move that has lost them."""
    for parameter in layer._parameters.values():
        if parameter is not None:
            parameter.fill_(torch.nan)
            if isinstance(parameter, WatchedWeight):
                parameter.mark_current()  # not a write of the user
    restore_constants(layer)
    if _refuse_without_values not in layer._forward_pre_hooks.values():
        layer.register_forward_pre_hook(_refuse_without_values)


@torch.no_grad()
def restore_constants(layer: AnalogLayer) -> None:
    """Set the ranges and the noise level of a layer to those of a new one."""
    for name, value in layer.initial_values.items():
        tensor = getattr(layer, name)
        if tensor is not None:
            tensor.fill_(value)


def follow_weight(layer: AnalogLayer) -> None:
    """Create the constants of a layer again where its weight is, if a state dict was assigned and not copied."""
    for name, value in layer.initial_values.items():
        tensor = layer._buffers.get(name)
        if tensor is not None and tensor.device != layer.weight.device:
            layer._buffers[name] = torch.full_like(tensor, value, device=layer.weight.device)


def mark_loaded(layer: AnalogLayer, keys: Iterable[str]) -> None:
    """Stop looking for values that were never set, if a state dict has all keys of a layer.

    Args:
        layer: the layer.
        keys: the keys of the state dict without the prefix of the layer.
    """
    hooks = layer._forward_pre_hooks
    if hooks and set(keys).issuperset(_persistent(layer)):
        for number in [number for number, hook in hooks.items() if hook is _refuse_without_values]:
            del hooks[number]


def check_values(layer: AnalogLayer, name: str = "") -> None:
    """Raise ``ValueError`` if a layer has no values because it is on the meta device, or was made with ``to_empty``.

    Args:
        layer: the layer.
        name: its name in the net.
    """
    if _refuse_without_values in layer._forward_pre_hooks.values():
        _refuse_without_values(layer, name=name)
    elif layer.weight.is_meta:
        raise ValueError(
            f"{name or type(layer).__name__}: the weight is on the meta device and has no values; materialise the net "
            "with to_empty(device=...) and load a state dict, or load it with load_state_dict(..., assign=True)"
        )


def _refuse_without_values(layer: AnalogLayer, *_: Any, name: str = "") -> None:
    """Raise if values are missing; otherwise the user has set them, and the next call does not look again."""
    missing = [
        key
        for key, value in _persistent(layer).items()
        if value.is_floating_point() and not key.endswith(".stuck") and bool(value.isnan().any())
    ]
    if missing:
        raise ValueError(
            f"{name or type(layer).__name__}: {', '.join(missing)} has no values, because the net was made with "
            "to_empty and nothing was loaded there; load a state dict with load_state_dict, or initialise the layer "
            "with reset_parameters()"
        )
    mark_loaded(layer, _persistent(layer))


def _persistent(layer: AnalogLayer) -> dict[str, Tensor]:
    """The tensors of a layer's state dict by key; ``state_dict`` itself makes FSDP shard the layer again."""
    return {
        f"{prefix}.{name}" if prefix else name: value.detach()
        for prefix, module in layer.named_modules()
        for name, value in (*module._parameters.items(), *module._buffers.items())
        if value is not None and name not in module._non_persistent_buffers_set
    }


@torch.no_grad()
def reset(layer: AnalogLayer, program_weight: bool = True) -> None:
    """Draw the ranges and converters of a layer anew, and program its weight if it is trained in the memory."""
    restore_constants(layer)
    if layer.converters is not None and layer.converters.differ:
        layer.converters.draw(draw_seed(layer.weight.device))
    if program_weight and isinstance(layer.weight, InMemoryWeight):
        layer.weight.devices.clear()
        program(layer, draw_seed(layer.weight.device), converters=False)


def refuse_programmed(layer: AnalogLayer) -> None:
    """Raise unless the parameters of a layer can be initialised."""
    if layer.noiseless is not None or (layer.store.why_not_digital and not isinstance(layer.weight, InMemoryWeight)):
        raise ValueError(
            f"{type(layer).__name__}.reset_parameters: the store is {layer.store.name}, so the weight is that of its "
            "devices; initialise the net before you program it, or load the state dict of a chip"
        )
