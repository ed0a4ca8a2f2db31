"""The state dict of an analog layer: configuration, devices and float checkpoints.

A state dict with device keys restores the devices. A float checkpoint, which has none, leaves the converters unchanged;
if the layer has devices, they are programmed with its weight.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast, final

import torch
from torch import nn

from phasegrad.configuration import Configuration
from phasegrad.crossbar import Hardware, Perturbation
from phasegrad.crossbar.hardware import from_tensor, to_tensor
from phasegrad.crossbar.streams import draw_seed
from phasegrad.nn.state_values import check_values
from phasegrad.stores.base import StoredLayer
from phasegrad.stores.drift_reference import expect_columns
from phasegrad.stores.programmed import assign_devices, blank_devices, program
from phasegrad.stores.written_weights import note_loaded

_CONFIGURATION = "configuration"  # key of the state dict


@final
@dataclass(frozen=True, kw_only=True)
class LayerConfiguration(Configuration):
    """The configuration that a layer saves in its state dict."""

    hardware: Hardware
    perturbation: Perturbation | None
    ranges_calibrated: bool | None = None
    """Whether data determined the converter ranges; ``None`` if unknown, as in state dicts of release 0.1.0."""


def save_configuration(layer: StoredLayer, destination: dict[str, Any], prefix: str) -> None:
    """Write the configuration of a layer to a state dict."""
    configuration = LayerConfiguration(
        hardware=layer.hardware, perturbation=layer.perturbation, ranges_calibrated=layer.ranges_calibrated
    )
    destination[prefix + _CONFIGURATION] = to_tensor(configuration)


def check_state_dict(layer: StoredLayer, state_dict: dict[str, Any], prefix: str) -> LayerConfiguration | None:
    """Check that a state dict can be loaded into a layer, before anything is copied.

    Returns:
        The configuration of this layer in the state dict; ``None`` for a float checkpoint.

    Raises:
        ValueError: the state dict was saved with different hardware (the message lists the fields), or an entry of
            devices, converters or ranges has a shape, dtype or value that is impossible.
    """
    loaded = _loaded_configuration(layer, state_dict, prefix)
    check_values(layer, state_dict, prefix)
    return loaded


def _loaded_configuration(layer: StoredLayer, state_dict: dict[str, Any], prefix: str) -> LayerConfiguration | None:
    key = prefix + _CONFIGURATION
    tensor = state_dict.get(key)
    if tensor is None:
        return None
    try:
        loaded = from_tensor(tensor)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{key} cannot be read, so nothing was loaded: {error}") from error
    if not isinstance(loaded, LayerConfiguration):
        raise ValueError(f"{key} is a {type(loaded).__name__}; it must be the configuration of a layer")
    differences = layer.hardware.differences(loaded.hardware)
    if differences:
        raise ValueError(
            f"the state dict was saved with different Hardware for {prefix.rstrip('.') or 'this layer'} "
            f"(layer != state dict): {'; '.join(differences)}. Convert the model with the Hardware of the state dict, "
            f"or delete its '{_CONFIGURATION}' entries to load only the weights"
        )
    return loaded


@contextmanager
def loading(layer: StoredLayer, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> Iterator[None]:
    """Prepare a layer for loading, and program its weight afterwards if the state dict has no devices."""
    loaded = check_state_dict(layer, state_dict, prefix)
    has_ranges = any(prefix + name in state_dict for name in ("input_range", "output_range"))
    state_dict.pop(prefix + _CONFIGURATION, None)
    has_devices = f"{prefix}devices.conductance" in state_dict
    reprograms = layer.devices is not None and not has_devices and f"{prefix}weight" in state_dict
    assigned = local_metadata.get("assign_to_params_buffers", False)
    if loaded is None:
        _keep_converters(layer, state_dict, prefix, assigned)
    elif loaded.perturbation is not None:  # a state dict saved before a recipe was applied does not remove the recipe
        layer.perturbation = loaded.perturbation
    if has_devices and layer.devices is None:
        assign_devices(layer, blank_devices(layer))
    if has_devices and assigned and layer.devices is not None:  # kernels read float32, as a copy would become
        layer.devices.expect(_device_keys(state_dict, prefix))
        expect_columns(layer.devices, state_dict, f"{prefix}devices.")
        for name, mine in layer.devices.state_dict().items():
            key = f"{prefix}devices.{name}"
            if key not in state_dict:  # a mask, which a state dict without one does not remove
                continue
            state_dict[key] = state_dict[key].to(mine.dtype, copy=True)  # the devices of two nets change alone
    if layer.assigned is not None and f"{prefix}weight" in state_dict and not assigned:
        # What is loaded takes the place of an assigned parameter, which belongs to another module.
        layer.register_parameter("weight", layer.assigned.own)
    yield
    if has_ranges:  # a float checkpoint has none, and the layer keeps its own
        layer.ranges_calibrated = loaded.ranges_calibrated if loaded is not None else None
    if reprograms and not layer.weight.is_meta:
        _reprogram(layer, assigned, state_dict, prefix)
        devices = layer.devices
        assert devices is not None
        state_dict.update({f"{prefix}devices.{k}": v for k, v in devices.state_dict().items()})
    elif has_devices:
        note_loaded(layer, f"{prefix}weight" in state_dict)


def _device_keys(state_dict: dict[str, Any], prefix: str) -> set[str]:
    start = f"{prefix}devices."
    return {key.removeprefix(start) for key in state_dict if key.startswith(start)}


def _reprogram(layer: StoredLayer, assigned: bool, state_dict: dict[str, Any], prefix: str) -> None:
    """Program the weight that was just loaded, read through the converters of the same state dict."""
    if assigned:  # the weight is the tensor of the checkpoint, which must not change
        layer.weight = nn.Parameter(layer.weight.clone(), layer.weight.requires_grad)
    assert layer.devices is not None
    if layer.devices.conductance.is_meta:
        layer.devices.to_empty(device=layer.weight.device)
    if layer.converters is not None:  # torch loads this submodule later, but programming reads the baseline through it
        with torch.no_grad():
            for name, buffer in layer.converters.state_dict().items():
                buffer.copy_(state_dict.get(f"{prefix}converters.{name}", buffer))
    program(layer, draw_seed(layer.weight.device), converters=False)


def _keep_converters(layer: StoredLayer, state_dict: dict[str, Any], prefix: str, assigned: bool) -> None:
    """Add the converters and ranges of the layer to a float checkpoint, which has none.

    Those on the meta device have no values; in their place, a state dict that is assigned gets those of a new layer.
    """
    weight = state_dict.get(f"{prefix}weight", layer.weight)
    if layer.converters is not None:
        converters = layer.converters
        if assigned and layer.weight.is_meta and not weight.is_meta:
            converters = copy.deepcopy(converters).to_empty(device=weight.device)
        for name, value in converters.state_dict().items():
            state_dict.setdefault(f"{prefix}converters.{name}", value)
    module = cast("nn.Module", layer)
    persistent = (set(module._parameters) | set(module._buffers)) - module._non_persistent_buffers_set
    for name in ("input_range", "output_range"):
        value = getattr(layer, name)
        if value is not None and name in persistent:
            value = value.detach()
            if assigned and value.is_meta:
                value = torch.full_like(value, layer.initial_values[name], device=weight.device)
            state_dict.setdefault(prefix + name, value)
