"""The state dict of an analog layer: configuration, devices and float checkpoints.

A state dict with device keys restores the devices. A float checkpoint, which has none, leaves the converters unchanged;
if the layer has devices, they are programmed with its weight.
"""

from __future__ import annotations

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
from phasegrad.stores.base import StoredLayer
from phasegrad.stores.programmed import assign_devices, blank_devices, program

_CONFIGURATION = "configuration"  # key of the state dict
_CONDUCTANCES = ("devices.conductance", "devices.reference.conductance", "devices.fast.conductance")


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
        ValueError: the state dict was saved with different hardware (the message lists the fields), the shape of the
            devices is wrong, or values of devices, converters or a weight to program are not finite.
    """
    weight, devices = state_dict.get(f"{prefix}weight"), state_dict.get(f"{prefix}devices.conductance")
    expected = [len(layer.hardware.cell.factors), layer.out_features, layer.in_features]
    loaded = _loaded_configuration(layer, state_dict, prefix)
    if devices is not None and list(devices.shape) != expected:
        raise ValueError(f"{prefix}devices.conductance has shape {list(devices.shape)}; it must be {expected}")
    _check_values(layer, state_dict, prefix)
    if layer.devices is not None and devices is None and weight is not None and not bool(weight.isfinite().all()):
        raise ValueError(
            f"{prefix}weight has non-finite values, to which devices cannot be programmed; load a finite weight"
        )
    return loaded


def _check_values(layer: StoredLayer, state_dict: dict[str, Any], prefix: str) -> None:
    """Raise if a conductance or converter error is not finite and, with wires, if a conductance is negative."""
    for key, value in state_dict.items():
        name = key.removeprefix(prefix)
        is_conductance = name in _CONDUCTANCES
        if not key.startswith(prefix) or not (is_conductance or name.startswith("converters.")):
            continue
        if not bool(value.isfinite().all()):
            raise ValueError(f"{key} has non-finite values; the state dict is damaged and nothing was loaded")
        if is_conductance and layer.hardware.linear_wires is not None and bool((value < 0.0).any()):
            raise ValueError(f"{key} has a conductance of {float(value.min())} S; with wires it must not be negative")


def _loaded_configuration(layer: StoredLayer, state_dict: dict[str, Any], prefix: str) -> LayerConfiguration | None:
    tensor = state_dict.get(prefix + _CONFIGURATION)
    if tensor is None:
        return None
    loaded = from_tensor(tensor)
    assert isinstance(loaded, LayerConfiguration)
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
    if loaded is None:
        _keep_converters(layer, state_dict, prefix)
    elif loaded.perturbation is not None:  # a state dict saved before a recipe was applied does not remove the recipe
        layer.perturbation = loaded.perturbation
    if has_devices and layer.devices is None:
        assign_devices(layer, blank_devices(layer))
    yield
    if has_ranges:  # a float checkpoint has none, and the layer keeps its own
        layer.ranges_calibrated = loaded.ranges_calibrated if loaded is not None else None
    if reprograms:
        _reprogram(layer, local_metadata.get("assign_to_params_buffers", False), state_dict, prefix)
        devices = layer.devices
        assert devices is not None
        state_dict.update({f"{prefix}devices.{k}": v for k, v in devices.state_dict().items()})


def _reprogram(layer: StoredLayer, assigned: bool, state_dict: dict[str, Any], prefix: str) -> None:
    """Program the weight that was just loaded, read through the converters of the same state dict."""
    if assigned:  # the weight is the tensor of the checkpoint, which must not change
        layer.weight = nn.Parameter(layer.weight.detach().clone(), layer.weight.requires_grad)
    if layer.converters is not None:  # torch loads this submodule later, but programming reads the baseline through it
        with torch.no_grad():
            for name, buffer in layer.converters.state_dict().items():
                buffer.copy_(state_dict.get(f"{prefix}converters.{name}", buffer))
    program(layer, draw_seed(layer.weight.device), converters=False)


def _keep_converters(layer: StoredLayer, state_dict: dict[str, Any], prefix: str) -> None:
    """Add the converters and ranges of the layer to a float checkpoint, which has none."""
    if layer.converters is not None:
        for name, value in layer.converters.state_dict().items():
            state_dict.setdefault(f"{prefix}converters.{name}", value)
    module = cast("nn.Module", layer)
    persistent = (set(module._parameters) | set(module._buffers)) - module._non_persistent_buffers_set
    for name in ("input_range", "output_range"):
        value = getattr(layer, name)
        if value is not None and name in persistent:
            state_dict.setdefault(prefix + name, value.detach())
