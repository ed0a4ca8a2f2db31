"""Nets that are trained by several processes."""

from __future__ import annotations

from torch import nn

from phasegrad.nn.layer import AnalogLayer
from phasegrad.stores import InMemory, InMemoryWeight

_IGNORED = "_ddp_params_and_buffers_to_ignore"  # where DistributedDataParallel looks, on the module that it wraps


def ignore_in_ddp(module: nn.Module) -> nn.Module:
    """Tell ``DistributedDataParallel`` to leave weights in the memory, and their devices, to the optimizer.

    Those get no gradient that could be averaged, and stay equal because all processes send them the same pulses.
    :func:`phasegrad.convert` has done this for the net that it returns; a module that contains such a net, and is what
    DDP wraps, needs it too. Without it training is the same, but zeros and devices are sent around at every step.

    Args:
        module: the module that DDP will wrap; in place.

    Returns:
        The module.
    """
    names = set(getattr(module, _IGNORED, ())) | _in_memory(module)
    if names:
        setattr(module, _IGNORED, sorted(names))
    return module


def heed_in_ddp(module: nn.Module) -> None:
    """Take :func:`ignore_in_ddp` back, of a net whose weights are about to become digital."""
    if hasattr(module, _IGNORED):
        left = set(getattr(module, _IGNORED)) - _in_memory(module)
        setattr(module, _IGNORED, sorted(left))
        if not left:
            delattr(module, _IGNORED)


def _in_memory(module: nn.Module) -> set[str]:
    names = {n for n, p in module.named_parameters(remove_duplicate=False) if isinstance(p, InMemoryWeight)}
    for name, layer in module.named_modules(remove_duplicate=False):
        if isinstance(layer, AnalogLayer) and layer.store.name == InMemory.name and layer.devices is not None:
            prefix = f"{name}.devices" if name else "devices"
            names |= {key for key, _ in layer.devices.named_buffers(prefix, remove_duplicate=False)}
    return names
