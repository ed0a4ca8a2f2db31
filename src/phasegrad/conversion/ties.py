"""Weights that several layers share, when they are programmed onto devices."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from phasegrad.nn import AnalogLayer


def untie(net: nn.Module, layers: Iterable[AnalogLayer]) -> None:
    """Copy the weights of layers to program whose other users cannot share the devices.

    The weight of a digital module must not drift, and a layer with a different weight layout has different tiles.
    """
    digital = {
        id(parameter)
        for module in net.modules()
        if not isinstance(module, AnalogLayer)
        for parameter in module._parameters.values()
        if parameter is not None
    }
    owners: dict[int, AnalogLayer] = {}
    copies: dict[object, nn.Parameter] = {}
    for layer in layers:
        weight = layer.weight
        first = owners.setdefault(id(weight), layer)
        if id(weight) in digital or first.layout != layer.layout:
            key = (id(weight), layer.layout)
            layer.weight = copies.setdefault(key, nn.Parameter(weight.detach().clone(), weight.requires_grad))
