"""Training of in-memory weights with ``DistributedDataParallel``."""

from __future__ import annotations

from torch import nn

from phasegrad import argument_checks as checks
from phasegrad.nn.layer import AnalogLayer
from phasegrad.stores import InMemory, InMemoryWeight

_IGNORED = (
    "_ddp_params_and_buffers_to_ignore"  # attribute that DistributedDataParallel reads from the module that it wraps
)


def ignore_in_ddp(module: nn.Module) -> nn.Module:
    """Exclude in-memory weights and their devices from the synchronisation of ``DistributedDataParallel``.

    In-memory weights have no gradient to average, and they stay equal because all processes apply the same pulses.
    ``phasegrad.convert`` calls this function on the net that it returns. Call it yourself if DDP wraps a module
    that contains such a net. Without it training computes the same, but DDP sends zeros and devices at every step.

    Args:
        module: the module that DDP will wrap; changed in place.

    Returns:
        The same module.
    """
    checks.module("ignore_in_ddp", "module", module)
    names = set(getattr(module, _IGNORED, ())) | _in_memory_names(module)
    if names:
        setattr(module, _IGNORED, sorted(names))
    return module


def undo_ignore_in_ddp(module: nn.Module) -> None:
    """Undo [`ignore_in_ddp`][phasegrad.nn.ignore_in_ddp] for a net whose weights are about to become digital."""
    if hasattr(module, _IGNORED):
        left = set(getattr(module, _IGNORED)) - _in_memory_names(module)
        setattr(module, _IGNORED, sorted(left))
        if not left:
            delattr(module, _IGNORED)


def _in_memory_names(module: nn.Module) -> set[str]:
    """Names of the in-memory weights and of the buffers of their devices."""
    names = {n for n, p in module.named_parameters(remove_duplicate=False) if isinstance(p, InMemoryWeight)}
    for name, layer in module.named_modules(remove_duplicate=False):
        if isinstance(layer, AnalogLayer) and layer.store.name == InMemory.name and layer.devices is not None:
            prefix = f"{name}.devices" if name else "devices"
            names |= {key for key, _ in layer.devices.named_buffers(prefix, remove_duplicate=False)}
    return names
