"""Weights that several layers share, once they live on devices."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from phasegrad.nn import AnalogLayer


def untie(net: nn.Module, layers: Iterable[AnalogLayer]) -> None:
    """Give layers that move onto devices a weight of their own where the others that have it cannot share these.

    A digital module's must not drift, and a layer that lays the weight out otherwise has other tiles.
    """
    digital = {
        id(parameter)
        for module in net.modules()
        if not isinstance(module, AnalogLayer)
        for parameter in module._parameters.values()
        if parameter is not None
    }
    owners: dict[int, AnalogLayer] = {}
    own: dict[object, nn.Parameter] = {}
    for layer in layers:
        weight = layer.weight
        first = owners.setdefault(id(weight), layer)
        if id(weight) in digital or first.layout != layer.layout:
            key = (id(weight), layer.layout)
            layer.weight = own.setdefault(key, nn.Parameter(weight.detach().clone(), weight.requires_grad))
