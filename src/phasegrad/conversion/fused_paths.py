"""Fused paths of torch's transformers, which read weights without calling their modules."""

from __future__ import annotations

from torch import nn

from phasegrad.nn import analog_layers

_OPEN = "_phasegrad_fused_path"
_FUSED: dict[type[nn.Module], str] = {
    nn.TransformerEncoderLayer: "activation_relu_or_gelu",
    nn.TransformerEncoder: "use_nested_tensor",
}
"""What opens a module's fused path in evaluation."""


def close_fused_paths(net: nn.Module) -> None:
    """In evaluation fused transformers would read weights past their modules, which only digital ones may."""
    for module in net.modules():
        name = _FUSED.get(type(module))
        if name is not None and analog_layers(module):
            setattr(module, _OPEN, getattr(module, name))
            setattr(module, name, 0 if name == "activation_relu_or_gelu" else False)


def open_fused_paths(net: nn.Module) -> None:
    """What :func:`close_fused_paths` closed."""
    for module in net.modules():
        name = _FUSED.get(type(module))
        if name is not None and _OPEN in vars(module):
            setattr(module, name, vars(module)[_OPEN])
            delattr(module, _OPEN)
