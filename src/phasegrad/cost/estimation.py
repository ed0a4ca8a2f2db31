"""Estimates of what a forward pass of a net costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from phasegrad import argument_checks as checks
from phasegrad.cost.activity import Activity, as_activity
from phasegrad.cost.area import tile_areas
from phasegrad.cost.conductance import Conductance, conductance
from phasegrad.cost.counting import Geometry, count, geometry, phases_of
from phasegrad.cost.energy import Drive, tile_energies
from phasegrad.cost.latency import Duration, Stages, duration, operator_time, stages
from phasegrad.cost.operators import OperatorCost
from phasegrad.cost.prices import Prices
from phasegrad.cost.report import DigitalEstimate, Estimate, LayerEstimate
from phasegrad.cost.shadow import Call
from phasegrad.cost.technology import Technology
from phasegrad.cost.tracing import Trace, samples, trace
from phasegrad.cost.upkeep import QUANTITIES, layer_upkeep
from phasegrad.crossbar import Hardware
from phasegrad.nn import AnalogLayer


def estimate(
    net: nn.Module,
    example_input: Any,
    *,
    technology: Technology | None = None,
    activity: Activity | float | None = None,
    replicas: int | Mapping[str, int] = 1,
    pipelined: bool = False,
) -> Estimate:
    """Estimate latency, energy and area of one forward pass, from the hardware of a converted net.

    The net is traced once, in evaluation mode and without values: no tile is run and nothing of the net is changed.
    Tiles, products and conversions are counted exactly. The array's energy uses the real conductances of the devices at
    their age, or the targets of digital weights, and an average drive of the word lines.

    Args:
        net: a converted net; programmed and aged, trained in the memory, or digital.
        example_input: an input of the net, whose shape and dtype count and whose values do not: a tensor, a tuple of
            positional inputs, or a mapping of keyword inputs. Its first dimension is the number of samples.
        technology: the constants; ``None`` to count only. A quantity that needs a missing constant is not computed:
            reading it raises an error that names the constant.
        activity: mean drive of the word lines: what [`measure_activity`][phasegrad.cost.measure_activity] returned, or
            a number in [0, 1] for all layers; ``None`` for every input at full range, with which the array's energy is
            an upper bound, and is called so.
        replicas: how often the tiles of each layer exist, by its name or for all layers; copies share the vectors of a
            call.
        pipelined: whether stages of a tile overlap and layers work on successive samples at the same time, so that
            static power is drawn for the interval between samples; otherwise one vector after another, and one layer
            after another.

    Returns:
        An [`Estimate`][phasegrad.cost.Estimate]: ``print`` it, ``.plot(path)`` it, ``.to_csv(path)``.

    Raises:
        ValueError: the net has no analog layer, refuses the input, or chooses what to compute by values of tensors; or
            a result is absurd: a conversion below the thermal limit, or an operation above ``highest_energy``.

    Examples:
        >>> import torch, phasegrad as pg
        >>> net = pg.convert(nn.Sequential(nn.Linear(600, 10)), pg.presets.pcm_inference())
        >>> counts = pg.cost.estimate(net, torch.empty(1, 600)).layers[0].counts
        >>> counts.products, counts.conversions, counts.operations
        (2, 20, 12000)
    """
    found = trace(net, example_input, "estimate")
    return priced(
        found,
        samples(example_input, "estimate"),
        technology=Technology() if technology is None else technology,
        activity=as_activity("estimate", activity, found.layers),
        replicas=replicas_by_layer(replicas, found.layers),
        pipelined=checks.flag("estimate", "pipelined", pipelined),
        conductances={name: conductance(layer) for name, layer in found.layers.items()},
    )


def priced(
    found: Trace,
    sample_count: int,
    *,
    technology: Technology,
    activity: Activity,
    replicas: Mapping[str, int],
    pipelined: bool,
    conductances: Mapping[str, Conductance | None],
) -> Estimate:
    """The estimate of a trace."""
    checks.instance("estimate", "technology", technology, Technology)
    prices = {quantity: Prices(technology, quantity) for quantity in ("energy", "latency", "area", *QUANTITIES)}
    by_layer: dict[str, list[Call]] = {name: [] for name in found.layers}
    for call in found.calls:
        by_layer[call.layer].append(call)
    layers = tuple(
        _layer(name, layer, by_layer[name], replicas.get(name, 1), activity, conductances[name], prices)
        for name, layer in found.layers.items()
    )
    digital = tuple(_digital(operator, prices) for operator in (*found.operators.values(), *_additions(layers)))
    result = Estimate(
        layers=layers,
        digital=digital,
        samples=sample_count,
        pipelined=pipelined,
        technology=technology,
        prices=prices,
        activity=activity.source,
        energy_is_upper_bound=activity.upper_bound and any(layer.energies["array"] != 0 for layer in layers),
    )
    _ask_for_the_rest(result)
    for layer in result.layers:
        _refuse_absurd(layer, found.layers[layer.name].hardware, technology)
    return result


def _layer(
    name: str,
    layer: AnalogLayer,
    calls: list[Call],
    replicas: int,
    activity: Activity,
    known: Conductance | None,
    prices: Mapping[str, Prices],
) -> LayerEstimate:
    technology, hardware, place = prices["energy"].technology, layer.hardware, geometry(layer)
    counts = count(layer, calls, phases_of(hardware, technology))
    if technology.partial_sums == "local":
        biases = 0 if layer.bias is None else sum(c.vectors * (c.outputs[1] - c.outputs[0]) for c in calls)
        counts = counts._replace(additions=biases)
    drive = Drive(
        layer.device_count,
        known,
        activity.of(name, hardware, technology.input_coding),
        _full_reads(layer, calls, place),
    )
    shown = name or "(root)"
    of_vector = stages(shown, hardware, place, calls[0].value_bytes, prices["latency"]) if calls else Stages(0, 0, 0)
    return LayerEstimate(
        name=name,
        kind=type(layer).__name__,
        out_features=layer.out_features,
        in_features=layer.in_features,
        tiles=layer.tiles * replicas,
        replicas=replicas,
        devices=layer.device_count * replicas,
        utilisation=layer.out_features * layer.in_features / (layer.tiles * hardware.rows * hardware.columns),
        counts=counts,
        calls=tuple(calls),
        stages=of_vector,
        duration=duration(calls, of_vector, replicas) if calls else Duration(0.0, 0.0, 0.0),
        energies=tile_energies(shown, hardware, counts, drive, prices["energy"]),
        areas=tile_areas(shown, hardware, layer.tiles * replicas, place.slices, prices["area"]),
        conductance=known,
        upkeep=layer_upkeep(shown, layer, place, of_vector, known, prices),
    )


def _full_reads(layer: AnalogLayer, calls: list[Call], place: Geometry) -> float:
    """Vectors times input slices; a call that uses a part of the columns counts as that fraction."""
    used = 1.0 / layer.out_features
    if layer.tiling.senses_rows:
        return sum(call.vectors for call in calls) * used
    return sum(call.vectors * (call.outputs[1] - call.outputs[0]) * used for call in calls) * place.drives


def _additions(layers: tuple[LayerEstimate, ...]) -> list[OperatorCost]:
    """The additions of partial sums and biases as one operator, whose energy the layers count."""
    additions = sum(layer.counts.additions for layer in layers)
    return [OperatorCost("partial sums and biases", 1, float(additions))] if additions else []


def _digital(operator: OperatorCost, prices: Mapping[str, Prices]) -> DigitalEstimate:
    energy = 0.0
    if operator.name != "partial sums and biases":
        energy = prices["energy"].cost(operator.operations, operator.name, "digital_energy")
        energy += prices["energy"].cost(operator.bytes, operator.name, "memory_energy")
    return DigitalEstimate(operator, energy, operator_time(operator, prices["latency"]))


def _ask_for_the_rest(result: Estimate) -> None:
    """Ask for the constants that belong to no product."""
    for layer in result.layers:
        result.prices["energy"].cost(layer.tiles, layer.name or "(root)", "tile_power")
    result.prices["energy"].cost(1, "the chip", "chip_power")
    result.prices["area"].cost(1, "the chip", "digital_area")


def _refuse_absurd(layer: LayerEstimate, hardware: Hardware, technology: Technology) -> None:
    """Raise if an operation of a fully used tile costs more than the bound of the technology."""
    if not layer.counts.products or math.isnan(layer.energy):
        return
    operation = layer.energy / layer.counts.products / (2.0 * hardware.rows * hardware.columns)
    if operation > technology.highest_energy:
        component = max(layer.energies, key=lambda name: layer.energies[name])
        raise ValueError(
            f"estimate: a product of a tile of {layer.name or 'the net'} takes {operation:.2g} J per operation of a "
            f"fully used tile, mostly in {component}, above highest_energy = {technology.highest_energy:g} J of the "
            "Technology: check the units of its constants, or raise highest_energy"
        )


def replicas_by_layer(replicas: int | Mapping[str, int], layers: Mapping[str, AnalogLayer]) -> dict[str, int]:
    """The replicas of every layer, from a number or from some layers by name."""
    if not isinstance(replicas, Mapping):
        return dict.fromkeys(layers, checks.integer("estimate", "replicas", replicas, 1, 1 << 20))
    for name, number in replicas.items():
        if name not in layers:
            raise ValueError(
                f"estimate: replicas has the name {name!r}, which is no analog layer of the net; its layers are "
                f"{', '.join(list(layers)[:5])}{', ...' if len(layers) > 5 else ''}"
            )
        checks.integer("estimate", f"replicas[{name!r}]", number, 1, 1 << 20)
    return {name: int(replicas.get(name, 1)) for name in layers}
