"""Keys and shapes of a state dict, compared with a net before anything is copied.

Torch copies whatever fits and then raises. This raises the same errors first, for the modules whose loading is torch's
own or phasegrad's: what a module or hook of a user's does to the keys is not known in advance.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from phasegrad.nn.layer import AnalogLayer
from phasegrad.stores import AnalogWeight

_OPTIONAL = ("num_batches_tracked", "mask", *AnalogWeight.optional)


def check_keys(net: nn.Module, state_dict: dict[str, Any], prefix: str, hook: Callable[..., Any]) -> None:
    """Raise what torch would raise after loading ``state_dict`` into ``net``.

    Args:
        net: the module whose ``load_state_dict`` is running.
        state_dict: keys and tensors, with the names of this release.
        prefix: prefix of the net's keys.
        hook: the hook of phasegrad on the net; nets with other hooks are left to torch.

    Raises:
        RuntimeError: a key is missing or unexpected and loading is strict, or a shape differs. Nothing was loaded.
    """
    if not _is_known(net, hook):
        return
    expected, allowed = _expected(net, state_dict, prefix)
    problems = [
        f"size mismatch for {key}: shape {list(state_dict[key].shape)} in the state dict, {list(mine.shape)} in the net"
        for key, mine in expected.items()
        if isinstance(state_dict.get(key), Tensor) and state_dict[key].shape != mine.shape and not is_lazy(mine)
    ]
    if _is_strict():
        missing = [key for key in expected if key not in state_dict]
        unexpected = [
            key for key in state_dict if key.startswith(prefix) and key not in expected and key not in allowed
        ]
        if unexpected:
            problems.insert(0, f"Unexpected key(s) in state_dict: {_listed(unexpected)}")
        if missing:
            problems.insert(0, f"Missing key(s) in state_dict: {_listed(missing)}")
    if problems:
        lines = "\n\t".join(problems)
        raise RuntimeError(f"Error(s) in loading state_dict for {type(net).__name__}; nothing was loaded:\n\t{lines}")


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - 20} more" if len(keys) > 20 else ""
    return ", ".join(f'"{key}"' for key in keys[:20]) + more + "."


def _is_strict() -> bool:
    """Whether ``load_state_dict`` is running with ``strict=True``, which torch does not pass to its hooks."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code is nn.Module.load_state_dict.__code__:
            return bool(frame.f_locals.get("strict"))
        frame = frame.f_back
    return False


def _is_known(net: nn.Module, hook: Callable[..., Any]) -> bool:
    """Whether only torch and phasegrad take part in loading a net."""
    for module in net.modules():
        hooks = (*module._load_state_dict_pre_hooks.values(), *module._load_state_dict_post_hooks.values())
        for one in hooks:
            function = getattr(one, "hook", one)
            if function is not hook and not getattr(function, "__module__", "").startswith("phasegrad."):
                return False
        loads = type(module)._load_from_state_dict
        own = loads is nn.Module._load_from_state_dict
        if not own and not loads.__module__.startswith(("torch.nn.modules.", "phasegrad.")):
            return False
        if type(module).set_extra_state is not nn.Module.set_extra_state or is_lazy_module(module):
            return False
    return True


def is_lazy_module(module: nn.Module) -> bool:
    """Whether a module has parameters whose shape is not known yet."""
    return any(parameter is not None and is_lazy(parameter) for parameter in module._parameters.values())


def _expected(net: nn.Module, state_dict: dict[str, Any], prefix: str) -> tuple[dict[str, Tensor], set[str]]:
    """The entries that the state dict must have, and the keys of others that it may have."""
    expected, allowed = {}, set()
    for name, module in net.named_modules(remove_duplicate=False):
        path = f"{prefix}{name}." if name else prefix
        for key, value in (*module._parameters.items(), *module._buffers.items()):
            if value is not None and key not in module._non_persistent_buffers_set:
                expected[path + key] = value
                # Batch norms of before torch 0.4.1 have no count, and weights may have neither mask nor faults.
                if key in _OPTIONAL and path + key not in state_dict:
                    del expected[path + key]
        if isinstance(module, AnalogLayer):
            allowed |= {key for key in state_dict if key.startswith(f"{path}devices.") or key == f"{path}configuration"}
    for name, module in net.named_modules(remove_duplicate=False):
        if isinstance(module, AnalogLayer):
            _relax(f"{prefix}{name}." if name else prefix, expected, state_dict)
    return expected, allowed


def _relax(path: str, expected: dict[str, Tensor], state_dict: dict[str, Any]) -> None:
    """Do not require what a layer keeps or computes if the state dict lacks it."""
    is_float = path + "configuration" not in state_dict
    without_devices = not any(key.startswith(path + "devices.") for key in state_dict)
    for key in [key for key in expected if key.startswith(path)]:
        name = key.removeprefix(path)
        if name.startswith("devices.drift_reference."):  # which a state dict with devices has or removes
            del expected[key]
            continue
        ranges = name in ("input_range", "output_range") or name.startswith("converters.")
        if (name.startswith("devices.") and without_devices) or (is_float and ranges and key not in state_dict):
            del expected[key]
