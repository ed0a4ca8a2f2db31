"""Known faults of devices that are trained in the memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from phasegrad.crossbar.streams import draw_seed
from phasegrad.nn import analog_layers
from phasegrad.nn.known_faults import FaultSource, net_faults
from phasegrad.stores import InMemory
from phasegrad.stores.programmed import program
from phasegrad.stores.sharing import Exchanges


@torch.no_grad()
def program_known_faults(
    net: nn.Module, exchanges: Exchanges, faults: FaultSource, map_around: Sequence[str]
) -> None:  # fmt: skip
    """Program the weights that were moved into the memory once more, onto devices with known faults.

    Args:
        net: a net whose digital weights were exchanged for in-memory ones.
        exchanges: these exchanges.
        faults: rates of faults, or maps by the names of layers.
        map_around: ways to program around them.

    Raises:
        ValueError: no weight was moved into the memory, or for the reasons of ``net_faults``.
    """
    digital = {id(moved): weight for weight, moved in exchanges.values()}
    layers = {n: m for n, m in analog_layers(net).items() if m.store.name == InMemory.name and id(m.weight) in digital}
    if not layers:
        raise ValueError(
            "convert: faults or map_around is given, but the hardware has no pulses, so no weight is on devices yet; "
            "pass them to pg.inference.program, which programs the devices"
        )
    for name, layer in layers.items():
        if layer.weight.is_meta:
            raise ValueError(
                f"convert: faults or map_around is given, but {name or 'the model'} is on the meta device, where "
                "nothing is programmed; materialise the model first, or use hardware with faults"
            )
    known = net_faults("convert", layers, faults, map_around)
    groups: dict[int, list[str]] = {}
    for name, layer in layers.items():
        groups.setdefault(id(layer.weight), []).append(name)
    for names in groups.values():
        layer = layers[names[0]]
        layer.weight.copy_(digital[id(layer.weight)])
        program(layer, draw_seed(layer.weight.device), converters=False, faults=known.of(names))
