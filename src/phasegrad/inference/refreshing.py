"""Rewriting the layers of a chip, which restarts their drift."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from phasegrad import argument_checks as checks
from phasegrad.inference.compensations.base import devices_of
from phasegrad.inference.programming import Seeds, advance, check_programmed, now
from phasegrad.nn import AnalogLayer, analog_layers
from phasegrad.nn.copying import shared_copy
from phasegrad.nn.layer import require_analog_layers, take_writes_of_net
from phasegrad.stores import Digital, Programmed
from phasegrad.stores.digital import programming_target
from phasegrad.stores.programming.base import ProgrammingMethod


class WriteCosts(Protocol):
    """What one writing costs, such as a [`Technology`][phasegrad.cost.Technology]."""

    @property
    def programming_energy(self) -> Any:
        """Energy of programming a device [J]."""
        ...

    @property
    def programming_time(self) -> Any:
        """Time of programming devices of a tile that are programmed together [s]."""
        ...

    @property
    def programmed_together(self) -> int:
        """Devices of a tile that are programmed together."""
        ...


@dataclass(frozen=True)
class Refreshed:
    """A chip whose layers were rewritten at intervals.

    Attributes:
        chip: the chip at its new age.
        rewrites: how often all layers were rewritten.
        writes: pulses of the device that got most of them, if they are known; otherwise one per rewrite.
        time: time of all rewrites [s]; tiles are written at the same time. ``None`` if unknown.
        energy: energy of all rewrites [J], or ``None`` if unknown.
        endurance: pulses that a device survives, or ``None`` if none was given.
    """

    chip: nn.Module
    rewrites: int
    writes: int
    time: float | None
    energy: float | None
    endurance: float | None = None

    @property
    def wear(self) -> float | None:
        """Part of the endurance that these rewrites consume in the device with most pulses."""
        return None if self.endurance is None else self.writes / self.endurance

    def __str__(self) -> str:
        parts = [f"{self.rewrites} rewrite(s), {self.writes} write(s) of the busiest device"]
        parts += [f"{self.time:.3g} s"] if self.time is not None else []
        parts += [f"{self.energy:.3g} J"] if self.energy is not None else []
        parts += [f"{self.wear:.2g} of the endurance"] if self.wear is not None else []
        return ", ".join(parts)


def refresh(
    chip: nn.Module,
    net: nn.Module,
    *,
    every: float,
    until: float,
    how: ProgrammingMethod | None = None,
    costs: WriteCosts | None = None,
    endurance: float | None = None,
    temperature: float | None = None,
    seed: int | None = None,
) -> Refreshed:
    """Age a copy of a chip, and rewrite all of its layers at intervals, which restarts their drift.

    A chip knows its devices, not the weights that they were programmed from: reading these back would add the errors of
    every rewrite to those of all before. So the net that the chip was programmed from is asked for, as it would be
    stored beside the chip. Compensation restarts too: gains are 1 after a rewrite, batch-norm statistics and converter
    ranges stay. What a rewrite leaves does not depend on those before it, so only the last one before ``until`` is
    simulated, and its cost stands for that of each.

    Args:
        chip: a programmed net; it is not modified.
        net: the net that the chip was programmed from, with its digital weights; it is not modified.
        every: time from one rewrite to the next, and from the chip's programming to the first [s].
        until: new time since the chip was first programmed [s]. A rewrite that is due then is made.
        how: how devices are written; see [`program`][phasegrad.inference.program]. With a process, its record tells
            pulses, time and energy.
        costs: constants of programming, such as a [`Technology`][phasegrad.cost.Technology], for statistical
            programming.
        endurance: pulses that a device survives; ``None`` for no limit.
        temperature: temperature from now on [K]; see [`age`][phasegrad.inference.age].
        seed: seed of the writes; ``None`` draws from torch's generator.

    Returns:
        The chip at its new age, the number of rewrites and what they cost.

    Raises:
        ValueError: the chip was never programmed or is trained in the memory, ``net`` is not the net it was programmed
            from, ``until`` is before the present time, or devices wear out before.

    Examples:
        >>> import phasegrad as pg
        >>> net = pg.convert(nn.Linear(16, 4), pg.presets.ideal_inference())
        >>> chip = pg.inference.program(net, seed=0)
        >>> print(refresh(chip, net, every=2.6e6, until=3.15e7, endurance=1e8, seed=1))
        12 rewrite(s), 12 write(s) of the busiest device, 1.2e-07 of the endurance
    """
    caller = "refresh"
    every = checks.number(caller, "every", every, 0.0, above=True, unit="s")
    until = checks.number(caller, "until", until, 0.0, unit="s")
    if endurance is not None:
        endurance = checks.number(caller, "endurance", endurance, 0.0, above=True)
    seed = None if seed is None else checks.seed(caller, seed)
    check_programmed(chip, caller)
    _check_source(chip, net)
    take_writes_of_net(chip)
    aged = shared_copy(chip)
    rewrites = advance_refreshed(aged, net, until, every, Seeds(seed), how, temperature)
    advance(aged, until, temperature)
    done = _costs(aged, rewrites, how, costs, endurance)
    if endurance is not None and done.writes > endurance:
        raise ValueError(
            f"refresh: every = {every:g} s until {until:g} s are {done.writes} pulses of a device, above endurance = "
            f"{endurance:g}; refresh less often"
        )
    return done


def advance_refreshed(
    chip: nn.Module, net: nn.Module, until: float, every: float, seeds: Seeds, how: ProgrammingMethod | None,
    temperature: float | None,
) -> int:  # fmt: skip
    """Rewrite a chip in place when a rewrite is due before a time [s]; returns how many were.

    Rewrites are due at all multiples of ``every`` after the present time.
    """
    first, last = math.floor(now(chip) / every), math.floor(until / every)
    if last <= first:
        return 0
    advance(chip, last * every, temperature)
    rewrite(chip, net, seeds, how)
    return last - first


@torch.no_grad()
def rewrite(chip: nn.Module, net: nn.Module, seeds: Seeds, how: ProgrammingMethod | None) -> None:
    """Write the weights of a net onto the devices of a chip at its present time, in place."""
    sources = analog_layers(net)
    names = {id(layer): name for name, layer in analog_layers(chip).items()}
    for layer, devices in devices_of(chip):
        target, errors = programming_target(sources[names[id(layer)]]), layer.periphery.output_errors
        seed = seeds.next(layer.weight.device)
        devices.program_weight(target.weight, target.scale, layer.output_range, seed, errors, how)
    for layer in analog_layers(chip).values():
        layer.store.sync()


def check_rewritable(net: nn.Module, caller: str) -> None:
    """Raise ``ValueError`` unless the weights of a net are digital, so that a chip can be rewritten from it."""
    for name, layer in require_analog_layers(net, caller).items():
        if layer.store.name != Digital.name:
            raise ValueError(
                f"{caller}: {name or 'the net'} of the net to refresh from is {layer.store.name}; pass the net that "
                "the chip was programmed from, whose weights are digital"
            )


def check_refresh(net: nn.Module, caller: str, refresh: object) -> float | None:
    """The time between rewrites of a population's chips [s], or ``None``; raise unless they can be rewritten."""
    if refresh is None:
        return None
    check_rewritable(net, caller)
    return checks.number(caller, "refresh", refresh, 0.0, above=True, unit="s")


def _check_source(chip: nn.Module, net: nn.Module) -> None:
    layers = analog_layers(chip)
    for name, layer in layers.items():
        if layer.store.name != Programmed.name:
            raise ValueError(
                f"refresh: {name or 'the net'} is {layer.store.name}: its weights are on its devices only. Train it "
                "further, or program pg.convert(pg.to_digital(chip), hardware) with hardware without pulses"
            )
    check_rewritable(net, "refresh")
    others = analog_layers(net)
    for name, layer in layers.items():
        other = others.get(name)
        if other is None or not _is_alike(layer, other):
            raise ValueError(
                f"refresh: {name or 'the net'} of the chip has no layer of the same shape and hardware in net; pass "
                "the net that the chip was programmed from"
            )


def _is_alike(layer: AnalogLayer, other: AnalogLayer) -> bool:
    return layer.weight.shape == other.weight.shape and layer.hardware == other.hardware


def _costs(
    chip: nn.Module, rewrites: int, how: ProgrammingMethod | None, costs: WriteCosts | None, endurance: float | None
) -> Refreshed:
    records = [devices.record for _, devices in devices_of(chip)]
    known = [record for record in records if record is not None]
    if rewrites and how is not None and known:
        pulses = max(int(record.pulses.max()) for record in known)
        time, energy = max(float(r.time.max()) for r in known), sum(float(r.energy.sum()) for r in known)
        return Refreshed(chip, rewrites, rewrites * pulses, rewrites * time, rewrites * energy, endurance)
    if costs is None:
        return Refreshed(chip, rewrites, rewrites, None, None, endurance)
    layers = [layer for layer, _ in devices_of(chip)]
    energy = sum(layer.device_count for layer in layers) * _constant(costs, "programming_energy")
    groups = max(math.ceil(_fullest_tile(layer) / costs.programmed_together) for layer in layers)
    time = groups * _constant(costs, "programming_time")
    return Refreshed(chip, rewrites, rewrites, rewrites * time, rewrites * energy, endurance)


def _constant(costs: WriteCosts, name: str) -> float:
    constant = getattr(costs, name)
    if constant is None:
        raise ValueError(f"refresh: costs.{name} = None; give it, as in dataclasses.replace(technology, {name}=...)")
    return float(getattr(constant, "value", constant))


def _fullest_tile(layer: AnalogLayer) -> int:
    """Devices of the largest tile of a layer."""
    rows, columns = min(layer.in_features, layer.hardware.rows), min(layer.out_features, layer.columns)
    cells = rows * (columns + (1 if layer.hardware.cell.has_reference else 0))
    return cells * sum(len(cell.factors) for cell in layer.hardware.cells)
