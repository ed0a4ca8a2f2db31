"""The age of the chip of a training step, which all layers of a net share."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from phasegrad.argument_checks import module
from phasegrad.crossbar.chip_age import UNDRAWN
from phasegrad.nn.layer import AnalogLayer, analog_layers
from phasegrad.ops.direct import in_transform

_BUFFER = "_age_draw"


def share_age(net: nn.Module) -> None:
    """Let a net draw one age for all of its layers at every call in training, if a layer has a distribution of ages."""
    stop_sharing_age(net)
    aged = _aged_layers(net)
    for layer in aged:
        draw = torch.full((), UNDRAWN, dtype=torch.int64, device=layer.weight.device)
        layer.register_buffer(_BUFFER, draw, persistent=False)
    if aged:
        net.register_forward_pre_hook(_draw_before_call)


def stop_sharing_age(net: nn.Module) -> None:
    """Undo ``share_age``."""
    for number in [n for n, hook in net._forward_pre_hooks.items() if hook is _draw_before_call]:
        del net._forward_pre_hooks[number]
    for layer in analog_layers(net).values():
        layer._buffers.pop(_BUFFER, None)


def draw_age(net: nn.Module) -> None:
    """Draw the age of the chip that the layers of a net in training are read from, until the next draw.

    A net does so itself at each call in training, once a recipe with an ``age`` was applied to it. Call this function
    once per step in a loop that calls parts of the net instead, such as ``net.head(features)``, or that calls the net
    within a transform of ``torch.func``, which cannot change the net. In both, each layer draws an age of its own until
    the first call of this function. Nothing is drawn without such a recipe.

    Raises:
        TypeError: ``net`` is not a module.
    """
    _draw(module("draw_age", "net", net))


def _draw_before_call(net: nn.Module, inputs: Any) -> None:
    if torch.compiler.is_compiling() or not in_transform():
        _draw(net)


def _draw(net: nn.Module) -> None:
    draws = [layer.age_draw for layer in _aged_layers(net) if layer.training]
    present = [draw for draw in draws if draw is not None]
    if not present:
        return
    drawn = torch.randint(0, 2**62, (), device=present[0].device)
    for draw in present:
        draw.copy_(drawn)


def _aged_layers(net: nn.Module) -> list[AnalogLayer]:
    """The layers that are read from chips of some age in training."""
    layers = [layer for layer in analog_layers(net).values() if layer.store.why_not_digital is None]
    return [layer for layer in layers if layer.perturbation is not None and layer.perturbation.age is not None]
