"""Accuracy of many chips over time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from phasegrad import argument_checks as checks
from phasegrad.inference.compensation import Compensations, apply_compensation, check_compensation
from phasegrad.inference.programming import Seeds, advance, program_copy
from phasegrad.inference.refreshing import advance_refreshed, check_refresh
from phasegrad.inference.report import Report, seed_of_chip
from phasegrad.inference.times import check_times, format_time
from phasegrad.nn import AnalogLayer
from phasegrad.nn.layer import require_analog_layers
from phasegrad.nn.start_ranges import warn_start_ranges
from phasegrad.progress import track


def accuracy_over_time(
    net: nn.Module,
    evaluate: Callable[[nn.Module], float],
    times: Sequence[float] = (1.0, 3600.0, 86_400.0, 2.6e6, 3.15e7),
    *,
    chips: int = 25,
    seed: int = 0,
    compensation: Compensations | None = "tile",
    temperature: float | None = None,
    how: Any = None,
    faults: Any = None,
    map_around: Sequence[str] = (),
    refresh: float | None = None,
    progress: bool = True,
) -> Report:
    """Program many chips, age each one, and evaluate it at every time.

    There is one chip in memory at a time, however many there are.

    Args:
        net: a converted net; neither it nor torch's generator is modified.
        evaluate: ``chip -> number``, such as the accuracy on a test set.
        times: times since programming [s], in increasing order.
        chips: number of chips.
        seed: seed of the chips; chip ``i`` is a function of the net, ``seed`` and ``i``.
        compensation: compensation before each evaluation, per ``"tile"``, ``"column"`` or ``"layer"``, or another one;
            see [`compensate`][phasegrad.inference.compensate]. ``None`` for no compensation.
        temperature: temperature of the chips from programming on [K]; ``None`` for the temperature at which the laws
            of their devices were measured.
        how: how the chips are programmed; see [`program`][phasegrad.inference.program].
        faults: devices that are stuck; see [`program`][phasegrad.inference.program].
        map_around: ways to program around the faults; see [`program`][phasegrad.inference.program].
        refresh: time from one rewriting of all layers to the next [s]; ``None`` to program once. See
            [`refresh`][phasegrad.inference.refresh].
        progress: whether to show progress: a bar on a terminal, a line every half minute elsewhere.

    Returns:
        A [`Report`][phasegrad.inference.Report]: ``print`` it, ``.plot(path)`` it, ``.to_csv(path)``.

    Warns:
        UncalibratedWarning: layers were never calibrated, so their converter ranges are start values.

    Raises:
        ValueError: the net has no analog layer or a non-finite weight, ``times`` are negative or not in increasing
            order, ``chips`` is below 1, ``evaluate`` returns a value that is not finite, or the net cannot be
            programmed in this way.
    """
    caller = "accuracy_over_time"
    times, chips = check_times(caller, times), checks.integer(caller, "chips", chips, 1)
    seed = checks.seed(caller, seed)
    checks.function(caller, "evaluate", evaluate, "chip -> number")
    checks.flag(caller, "progress", progress)
    if compensation is not None:
        check_compensation(caller, compensation)
    require_analog_layers(net, caller)
    refresh = check_refresh(net, caller, refresh)
    warn_start_ranges(net, caller)
    programming = {"how": how, "faults": faults, "map_around": map_around}
    values = np.empty((len(times), chips))
    with torch.random.fork_rng(), track(values.size, unit="read", shown=progress) as bar:

        def measure(i: int) -> None:  # a function, so that a chip is freed before the next one is programmed
            ages = chip_over_time(net, seed_of_chip(seed, i), times, compensation, temperature, programming, refresh)
            for j, chip in enumerate(ages):
                where = f" for chip {i} at {format_time(times[j])}"
                bar.describe(f"chip {i + 1}/{chips}, {format_time(times[j])}")
                values[j, i] = checks.result(caller, "evaluate", evaluate(chip), where)
                bar.update()

        for i in range(chips):
            measure(i)
    return Report(times, values, seed, compensation)


def chip_over_time(
    net: nn.Module, seed: int, times: Sequence[float], compensation: Any, temperature: float | None,
    programming: Mapping[str, Any], refresh: float | None = None,
) -> Iterator[nn.Module]:  # fmt: skip
    """Program one chip and age it in place from time to time; torch's generator continues from the chip's seed."""
    torch.manual_seed(seed)
    chip, seeds = program_copy(net, seed, **programming), Seeds(seed + 1)
    for time in times:
        if refresh is not None:
            advance_refreshed(chip, net, time, refresh, seeds, programming.get("how"), temperature)
        advance(chip, time, temperature)
        if compensation is not None:
            apply_compensation(chip, compensation, seeds)
        yield chip


def require_digital(net: nn.Module, caller: str) -> dict[str, AnalogLayer]:
    """The analog layers of a net by name; raise ``ValueError`` if there is none or one is on devices already."""
    layers = require_analog_layers(net, caller)
    for name, layer in layers.items():
        if layer.store.why_not_digital is not None:
            raise ValueError(f"{caller}: {name or 'the net'} is {layer.store.name} already; pass the converted net")
    return layers
