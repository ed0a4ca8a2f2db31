"""Programming a trained net onto a chip, and ageing the chip."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from phasegrad import argument_checks as checks
from phasegrad.conversion.ties import untie
from phasegrad.crossbar.streams import draw_seed
from phasegrad.nn import AnalogLayer, analog_layers
from phasegrad.nn.copying import copy_net, shared_copy
from phasegrad.nn.known_faults import FaultSource, net_faults
from phasegrad.nn.layer import require_analog_layers, take_writes_of_net
from phasegrad.nn.start_ranges import warn_start_ranges
from phasegrad.stores import AnalogWeight, Noiseless
from phasegrad.stores.programmed import attach
from phasegrad.stores.programmed import program as program_layer
from phasegrad.stores.programming.base import ProgrammingMethod
from phasegrad.stores.programming.record import ProgrammingRecord


def program(
    net: nn.Module, *, seed: int | None = None, how: ProgrammingMethod | None = None, faults: FaultSource = None,
    map_around: Sequence[str] = (),
) -> nn.Module:  # fmt: skip
    """Program a copy of a converted net onto devices.

    Each weight is clipped as its layer specifies, scaled to the conductance range, and programmed; every device has its
    own programming error and drift exponent. The chip's clock starts at 0 when programming ends. Tied analog layers
    share devices, except layers that store the transpose of the weight, which have their own. A digital module tied to
    an analog layer (such as an embedding) keeps its digital weight.

    Args:
        net: a converted net; it is not modified.
        seed: seed that makes the chip a function of the net and this number; ``None`` draws from torch's generator.
        how: how devices are programmed: [`Statistical`][phasegrad.inference.Statistical] (``None``), one draw from the
            measured statistics; or a process, such as [`WriteVerify`][phasegrad.inference.WriteVerify], which
            [`programming_record`][phasegrad.inference.programming_record] then tells.
        faults: devices that are stuck: rates, [`Faults`][phasegrad.devices.Faults], or a
            [`FaultMap`][phasegrad.devices.FaultMap] for each layer name that has stuck devices; ``None`` for those of
            the hardware. They are a function of the seed alone, whatever is programmed.
        map_around: ways to program around the faults, as if the chip had been tested: ``"pair"`` lets the other devices
            of a cell take up what a stuck one lacks, ``"columns"`` swaps the columns of a tile, so that stuck devices
            change the weights little; both or none.

    Returns:
        The chip, in evaluation mode; its weights are not trainable.

    Warns:
        UncalibratedWarning: layers were never calibrated, so their converter ranges are start values.

    Raises:
        ValueError: the net has no analog layer, is programmed already, or has a non-finite weight; the devices cannot
            be programmed as ``how`` says; or a map names no
            layer, has another shape than its devices, or conductances outside of their window, or a layer cannot be
            mapped around its faults in this way.

    Examples:
        >>> import phasegrad as pg
        >>> net = pg.convert(nn.Sequential(nn.Linear(16, 4)), pg.presets.pcm_inference())
        >>> chip = program(pg.hwa.calibrate(net, [torch.randn(64, 16)], recipe=None), seed=0)
        >>> chip[0].devices.conductance.shape
        torch.Size([2, 4, 16])
    """
    seed = None if seed is None else checks.seed("program", seed)
    chip = program_copy(net, seed, how=how, faults=faults, map_around=map_around)
    warn_start_ranges(net, "program")
    return chip


def program_copy(
    net: nn.Module, seed: int | None, *, how: ProgrammingMethod | None = None, faults: FaultSource = None,
    map_around: Sequence[str] = (),
) -> nn.Module:  # fmt: skip
    """Program a copy of a net whose ranges were already looked at; see [`program`][phasegrad.inference.program]."""
    layers = _require_not_noiseless(net, "program")
    for name, layer in layers.items():
        if layer.devices is not None:
            raise ValueError(f"program: {name or 'the net'} is already programmed; program the original net")
        _check_finite(name, layer.weight)
        _check_method(name, layer, how)
    known = net_faults("program", layers, faults, map_around)
    chip = copy_net(net).eval()
    for group, seed_of_group in seeded_groups(chip, Seeds(seed)):
        first, *others = group.values()
        program_layer(first, seed_of_group, faults=known.of(group), method=how)
        for layer in others:
            assert first.devices is not None
            attach(layer, first.devices, first)
            if type(first) is type(layer):  # the same tiles
                layer.converters = first.converters
    return chip


def seeded_groups(chip: nn.Module, seeds: Seeds) -> list[tuple[dict[str, AnalogLayer], Tensor]]:
    """The layers of a copy of a net by name, those that will share devices together, and the seed of each group."""
    layers = analog_layers(chip)
    untie(chip, layers.values())
    groups: dict[int, dict[str, AnalogLayer]] = {}
    for name, layer in layers.items():
        groups.setdefault(id(layer.weight), {})[name] = layer
    return [(group, seeds.next(next(iter(group.values())).weight.device)) for group in groups.values()]


def age(
    chip: nn.Module, seconds: float | None = None, *, until: float | None = None, temperature: float | None = None
) -> nn.Module:
    """Age a copy of a chip.

    Correlated noise continues exactly, as a function of the chip's seed and of the times that it was aged to. The first
    ageing after training in the memory measures the baseline of drift compensation, with a read that is noisy like any
    other and draws from torch's generator.

    Args:
        chip: a programmed net; it is not modified.
        seconds: time that passes [s]; pass either this or ``until``.
        until: new time since the chip was first programmed [s].
        temperature: temperature of the chip during this time and afterwards [K]; ``None`` for its present temperature.
            The devices must be [`Thermal`][phasegrad.devices.Thermal], which have laws of temperature.

    Returns:
        A copy whose devices have drifted, each with its own exponent.

    Raises:
        ValueError: the chip was never programmed; a time is negative, not finite, or before the present one; or the
            devices' laws do not cover the temperature.

    Examples:
        >>> import phasegrad as pg
        >>> net = pg.convert(nn.Sequential(nn.Linear(16, 4)), pg.presets.ideal_inference())
        >>> old = age(program(net, seed=0), seconds=86_400.0)
        >>> float(old[0].devices.clock)
        86400.0
    """
    check_programmed(chip, "age")
    take_writes_of_net(chip)
    if (seconds is None) == (until is None):
        raise ValueError(f"age: seconds = {seconds} and until = {until}; pass exactly one of them")
    if seconds is not None:
        seconds = _check_time("age", "seconds", seconds)
    else:
        _check_time("age", "until", until)
    older = shared_copy(chip, rewritten=True)
    advance(older, now(chip) + seconds if seconds is not None else until, temperature)  # type: ignore[arg-type]
    return older


def now(chip: nn.Module) -> float:
    """The chip's present time since it was first programmed [s].

    Raises:
        ValueError: the chip was never programmed.
    """
    check_programmed(chip, "now")
    return max(float(d.clock) for d in _devices(chip))


def advance(chip: nn.Module, until: float, temperature: float | None = None) -> None:
    """Move a chip's clock in place; see [`age`][phasegrad.inference.age]."""
    until = _check_time("age", "until", until)
    take_writes_of_net(chip)
    present = now(chip)
    if until < present:
        raise ValueError(f"age: until = {until:g} s is before the chip's present time of {present:g} s")
    if temperature is not None:
        temperature = checks.number("age", "temperature", temperature, 0.0, above=True, unit="K")
        _check_temperature(chip, temperature)
    for layer in analog_layers(chip).values():
        if layer.devices is not None:
            place, errors = layer.weight.device, layer.periphery.output_errors
            layer.devices.renew_baseline(layer.output_range, functools.partial(draw_seed, place), errors)
    for devices in _devices(chip):
        devices.advance_clock(until, temperature)
    for layer in analog_layers(chip).values():
        layer.store.sync()


class Seeds:
    """Seeds of layers, derived from the user's seed or drawn from torch's generator."""

    def __init__(self, seed: int | None) -> None:
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)

    def next(self, device: torch.device) -> Tensor:
        """Draw the seed of the next layer, on its device."""
        if self._generator is None:
            return draw_seed(device)
        return torch.randint(-(2**63), 2**63 - 1, (1,), generator=self._generator).to(device)


def _devices(chip: nn.Module) -> list[AnalogWeight]:
    found = {id(m.devices): m.devices for m in analog_layers(chip).values() if m.devices is not None}
    return list(found.values())


def _require_not_noiseless(net: nn.Module, caller: str) -> dict[str, AnalogLayer]:
    """The analog layers of a net by name; raise ``ValueError`` if there is none or the net is noiseless."""
    layers = require_analog_layers(net, caller)
    if any(layer.store.name == Noiseless.name for layer in layers.values()):
        raise ValueError(f"{caller}: the net is noiseless, so its weights are fixed; use the original net or chip")
    return layers


def check_programmed(chip: nn.Module, caller: str) -> None:
    """Raise ``ValueError`` unless every analog layer of a net is programmed."""
    layers = _require_not_noiseless(chip, caller)
    missing = [name for name, layer in layers.items() if layer.devices is None]
    if missing:
        raise ValueError(
            f"{caller}: {missing[0] or 'the net'} was never programmed; program it with pg.inference.program(net) first"
        )


def _check_finite(name: str, weight: Tensor) -> None:
    if bool(weight.detach().sum().isfinite()):  # one pass; a sum of finite weights may overflow
        return
    bad = int((~torch.isfinite(weight)).sum())
    if bad:
        raise ValueError(
            f"program: {name or 'the net'} has {bad} non-finite weight(s) out of {weight.numel()}, to which no device "
            "can be programmed; check whether training diverged"
        )


def _check_method(name: str, layer: AnalogLayer, how: object) -> None:
    if how is None:
        return
    if not isinstance(how, ProgrammingMethod):
        raise TypeError(
            f"program: how = {checks.shown(how)}; it must be a way to program devices, such as "
            "pg.inference.WriteVerify(strategy=pg.inference.AmplitudeSteps()), or None"
        )
    try:
        how.check(layer.hardware.cell)
    except ValueError as error:
        raise ValueError(f"program: {name or 'the net'}: {error}") from error


def programming_record(chip: nn.Module) -> dict[str, ProgrammingRecord]:
    """What the write loops of a chip did, by the names of its layers; layers that share devices share the record.

    Records describe a process, not the chip: they are not part of its state dict.

    Raises:
        ValueError: the chip was never programmed, was programmed statistically, or its state was loaded.

    Examples:
        >>> import phasegrad as pg
        >>> device = pg.devices.melt_and_quench()
        >>> hardware = pg.Hardware(cell=pg.cells.DifferentialPair(device=device))
        >>> net = pg.convert(nn.Sequential(nn.Linear(16, 4)), hardware)
        >>> chip = program(net, seed=0, how=pg.inference.WriteVerify(strategy=pg.inference.AmplitudeSteps()))
        >>> programming_record(chip)["0"].converged.shape
        torch.Size([2, 4, 16])
    """
    check_programmed(chip, "programming_record")
    found = {name: layer.devices.record for name, layer in analog_layers(chip).items() if layer.devices is not None}
    missing = [name for name, record in found.items() if record is None]
    if missing:
        raise ValueError(
            f"programming_record: {missing[0] or 'the net'} has no record, because it was programmed statistically, or "
            "its state was loaded; program the net with pg.inference.program(net, how=pg.inference.WriteVerify(...))"
        )
    return {name: record for name, record in found.items() if record is not None}


def _check_temperature(chip: nn.Module, temperature: float) -> None:
    for name, layer in analog_layers(chip).items():
        try:
            layer.hardware.cell.device.check_temperature(temperature)
        except ValueError as error:
            raise ValueError(f"age: {name or 'the net'}: {error}") from error


def _check_time(caller: str, name: str, seconds: object) -> float:
    return checks.number(caller, name, seconds, 0.0, unit="s")
