"""Fused paths of torch's transformers, which read weights without calling the modules that own them."""

from __future__ import annotations

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
    for module in net.modules():
        name = _SWITCHES.get(type(module))
        if name is not None and analog_layers(module):
            setattr(module, _SAVED, getattr(module, name))
            setattr(module, name, 0 if name == "activation_relu_or_gelu" else False)


def open_fused_paths(net: nn.Module) -> None:
    """Restore the fused paths that ``close_fused_paths`` disabled."""
    for module in net.modules():
        name = _SWITCHES.get(type(module))
        if name is not None and _SAVED in vars(module):
            setattr(module, name, vars(module)[_SAVED])
            delattr(module, _SAVED)
