"""Checks of the values that a state dict has for a layer, before any of them is loaded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from phasegrad.stores.analog_weight import AnalogWeight
from phasegrad.stores.base import StoredLayer
from phasegrad.stores.drift_reference import expect_columns

_DEVICES = "devices."
_NOT_NEGATIVE = frozenset((
    "clock", "programmed_at", "pulsed_at", "scale", "gain", "baseline", "nu", "history", "updates", "samples", "heat",
    "stuck", "first",
))  # fmt: skip
"""Names of device state that is never below 0."""


def check_values(layer: StoredLayer, state_dict: dict[str, Any], prefix: str) -> None:
    """Check the entries of a layer's devices, converters and ranges, and the weight that follows the devices.

    Digital weights and biases are torch's: those of a net that has diverged can be loaded.

    Raises:
        ValueError: an entry is no tensor, or has a wrong shape or dtype, or a value that no device, converter or range
            has; the message names the entry. Nothing was loaded.
    """
    expected = _expected(layer, state_dict, prefix)
    devices = [key for key in expected if key.startswith(prefix + _DEVICES)]
    found = [key for key in devices if key in state_dict]
    missing = [key for key in devices if key not in state_dict]
    if found and missing:
        raise ValueError(
            f"{', '.join(missing)} is missing, but the state dict has {found[0]}: devices are loaded as a whole, so "
            "nothing was loaded. Load a complete state dict, or one without devices, whose weights are programmed"
        )
    for key, mine in expected.items():
        if key in state_dict:
            _check_entry(key, state_dict[key], mine, key in devices)
            _check_sign(layer, key.removeprefix(prefix), key, state_dict[key])
    weight = state_dict.get(f"{prefix}weight")
    if isinstance(weight, Tensor) and (found or layer.devices is not None) and not _is_finite(weight):
        raise ValueError(
            f"{prefix}weight has non-finite values, to which devices cannot be programmed; load a finite weight. "
            "Nothing was loaded"
        )


def _expected(layer: StoredLayer, state_dict: dict[str, Any], prefix: str) -> dict[str, Tensor]:
    """Tensors with the shapes and dtypes of a layer's own entries, by key."""
    expected: dict[str, Tensor] = {}
    if layer.devices is not None or any(key.startswith(prefix + _DEVICES) for key in state_dict):
        blank = AnalogWeight(layer.hardware, layer.out_features, layer.in_features, layer.columns, "meta")
        blank.expect({key.removeprefix(prefix + _DEVICES) for key in state_dict if key.startswith(prefix + _DEVICES)})
        expect_columns(blank, state_dict, prefix + _DEVICES)
        expected |= {f"{prefix}{_DEVICES}{key}": value for key, value in blank.state_dict().items()}
    if layer.converters is not None:
        expected |= {f"{prefix}converters.{key}": value for key, value in layer.converters.state_dict().items()}
    assert isinstance(layer, nn.Module)
    for name in ("input_range", "output_range"):
        value = getattr(layer, name)
        if value is not None and name not in layer._non_persistent_buffers_set:
            expected[prefix + name] = value
    return expected


def _check_entry(key: str, value: Any, mine: Tensor, of_devices: bool) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(f"{key} is a {type(value).__name__}; it must be a tensor. Nothing was loaded")
    if value.shape != mine.shape:
        raise ValueError(f"{key} has shape {list(value.shape)}; it must be {list(mine.shape)}")
    floats = mine.is_floating_point()
    # No cast of the net rounds the state of devices, so only somebody's copy can have.
    rounded = of_devices and floats and value.is_floating_point() and torch.finfo(value.dtype).bits < 32
    same = value.is_floating_point() if floats else not (value.is_floating_point() or value.is_complex())
    if not same or rounded or value.dtype == torch.bool:
        why = "; the state of devices is not rounded" if rounded else ""
        raise ValueError(f"{key} has dtype {value.dtype}; it must be {mine.dtype}{why}. Nothing was loaded")
    if key.endswith(".stuck"):
        value = value.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)  # NaN: devices that respond
    if not _is_finite(value):
        shown = f" ({float(value)})" if value.numel() == 1 else ""
        raise ValueError(f"{key} has non-finite values{shown}; the state dict is damaged and nothing was loaded")


def _check_sign(layer: StoredLayer, name: str, key: str, value: Tensor) -> None:
    if not name.startswith(_DEVICES) or value.is_meta or value.numel() == 0:
        return
    last, low = name.rpartition(".")[2], float(value.min())
    if last == "conductance" and layer.hardware.linear_wires is not None and low < 0.0:
        raise ValueError(f"{key} has a conductance of {low} S; with wires it must not be negative")
    if last == "stuck":
        low = float(value.nan_to_num(nan=0.0).min())
    if last == "column_order":
        _check_order(layer, key, value)
    if last == "column_range" and low <= 0.0:
        raise ValueError(f"{key} has a value of {low:g}; a range must be positive. Nothing was loaded")
    if last in _NOT_NEGATIVE and low < 0.0:
        raise ValueError(f"{key} has a value of {low:g}; it must not be negative. Nothing was loaded")
    if last == "polarity" and float(value.abs()) != 1.0:
        raise ValueError(f"{key} = {float(value):g}; it must be 1 or -1. Nothing was loaded")


def _check_order(layer: StoredLayer, key: str, value: Tensor) -> None:
    """Raise unless the outputs of each tile are on the columns of that tile, each on its own."""
    for first in range(0, value.shape[1], layer.columns):
        columns = value[:, first : first + layer.columns]
        own = torch.arange(first, first + columns.shape[1], device=value.device).expand_as(columns)
        if not torch.equal(columns.sort(dim=1).values, own):
            raise ValueError(
                f"{key} is no order of columns: outputs {first} to {first + columns.shape[1] - 1} must each have one "
                "of the columns of their tile. Nothing was loaded"
            )


def _is_finite(value: Tensor) -> bool:
    return value.is_meta or not value.is_floating_point() or bool(value.isfinite().all())
