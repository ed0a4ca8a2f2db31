"""Fused paths of torch's transformers, which read weights without calling the modules that own them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from phasegrad.nn import analog_layers

_SAVED = "_phasegrad_fused_path"
_SWITCHES: dict[type[nn.Module], str] = {
    nn.TransformerEncoderLayer: "activation_relu_or_gelu",
    nn.TransformerEncoder: "use_nested_tensor",
}
"""The attribute that enables the fused path of a module type in evaluation."""


def close_fused_paths(net: nn.Module) -> None:
    """Disable the fused paths of transformers with analog layers, which they would bypass in evaluation."""
    for module, name in _switches(net):
        if analog_layers(module) and _SAVED not in vars(module):
            setattr(module, _SAVED, getattr(module, name))
            setattr(module, name, 0 if name == "activation_relu_or_gelu" else False)


def open_fused_paths(net: nn.Module) -> None:
    """Restore the fused paths that ``close_fused_paths`` disabled."""
    for module, name in _switches(net):
        if _SAVED in vars(module):
            setattr(module, name, vars(module)[_SAVED])
            delattr(module, _SAVED)


def _switches(net: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Each transformer in a net, subclasses included, with the name of its switch."""
    for module in net.modules():
        for kind, name in _SWITCHES.items():
            if isinstance(module, kind) and hasattr(module, name):
                yield module, name
