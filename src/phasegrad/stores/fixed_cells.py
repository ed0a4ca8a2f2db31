"""Devices that keep their state: those of cells outside a mask, and all devices if an operation fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from phasegrad.stores.analog_weight import AnalogWeight

_CHANGED_BY_PULSES = ("conductance", "nu", "history", "pulsed_at")


@contextmanager
def fixed_cells(devices: AnalogWeight, fixed: Tensor) -> Iterator[None]:
    """Restore the devices of cells ``[out, in]`` when the context ends, whatever was sent to them.

    Pulse trains run along whole lines. In hardware, the access transistors of these cells deselect them; here they are
    pulsed with all others and restored, so that neither trains nor noise of the others depend on the mask. Refreshes
    and transfers do not change them either.
    """
    cells = fixed.flatten().nonzero().squeeze(1)
    arrays = (devices,) if devices.fast is None else (devices, devices.fast)
    buffers = [b for array in arrays for name in _CHANGED_BY_PULSES if (b := getattr(array, name)) is not None]
    before = [buffer.flatten(-2)[..., cells] for buffer in buffers]
    try:
        yield
    finally:
        for buffer, values in zip(buffers, before, strict=True):
            buffer.flatten(-2)[..., cells] = values


@contextmanager
def restored_on_error(devices: AnalogWeight) -> Iterator[None]:
    """Restore all state of some devices if an exception leaves the context."""
    before = [(buffer, buffer.clone()) for buffer in devices.buffers()]
    try:
        yield
    except BaseException:
        for buffer, values in before:
            buffer.copy_(values)
        raise


def why_not_fixed(devices: AnalogWeight) -> str | None:
    """Why single weights cannot be kept on the hardware of some devices, and the way out; ``None`` if they can."""
    fast = devices.hardware.fast
    advice = "Mask weights on hardware without them, or untie the weight and skip the layer to keep all of it digital"
    if devices.leaks or (devices.fast is not None and devices.fast.leaks):
        return f"devices of its hardware leak, so no weight keeps its value, whether pulsed or not. {advice}"
    if fast is not None and fast.transfer is not None:
        return f"fast.transfer = {fast.transfer} in its hardware writes all devices again at intervals. {advice}"
    return None


def check_mask(mask: object, shape: torch.Size, devices: AnalogWeight) -> Tensor:
    """A mask of a weight with this shape, as bool.

    Raises:
        TypeError: ``mask`` is no tensor.
        ValueError: it has values other than 0 and 1, it cannot be expanded to the shape, or the hardware cannot keep
            single weights.
    """
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask = {mask!r}; it must be a tensor that is 1 where the weight is trained, or None")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(
            "mask has values other than 0 and 1; a weight is trained or not. A hook can scale the gradient, "
            "weight.register_hook(lambda grad: 0.5 * grad)"
        )
    reason = why_not_fixed(devices)
    if reason is not None:
        raise ValueError(f"mask is given for an in-memory weight, but {reason}")
    try:
        return mask.bool().expand(shape)
    except RuntimeError:
        raise ValueError(
            f"mask has shape {list(mask.shape)}; it must be that of the weight, {list(shape)}, or broadcast to it"
        ) from None
