"""Checks of the activations that a layer receives."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from phasegrad.argument_checks import shown


def check_input(layer: nn.Module, x: Tensor, weight: Tensor, shape: str) -> None:
    """Raise unless an input is a dense tensor of the weight's dtype and device.

    Args:
        layer: the layer, whose class the error names.
        x: the input.
        weight: the layer's weight.
        shape: the expected shape, for the error.

    Raises:
        TypeError: the input is not a dense tensor, or has another dtype and autocast is off.
        ValueError: the input is on another device.
    """
    if not isinstance(x, Tensor) or x.layout is not torch.strided:
        raise TypeError(f"{type(layer).__name__}: input = {shown(x)}; it must be a dense tensor {shape}")
    if x.device != weight.device:
        raise ValueError(
            f"{type(layer).__name__}: input is on {x.device} and the weight on {weight.device}; move one of them"
        )
    if x.dtype is not weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise TypeError(
            f"{type(layer).__name__}: input has dtype {x.dtype} and the weight {weight.dtype}; convert one of them "
            "with .to(dtype), or use torch.autocast"
        )
