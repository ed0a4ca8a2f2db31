"""Which layers cost how much accuracy on a chip, and which to keep digital."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from phasegrad import argument_checks as checks
from phasegrad.conversion import to_digital
from phasegrad.conversion.replacement import counterparts
from phasegrad.inference.accuracy import chip_over_time, require_digital
from phasegrad.inference.compensation import check_compensation
from phasegrad.inference.refreshing import check_refresh
from phasegrad.inference.report import seed_of_chip
from phasegrad.inference.sensitivity_report import Sensitivity
from phasegrad.inference.times import check_times, format_time
from phasegrad.nn import analog_layers
from phasegrad.nn.start_ranges import warn_start_ranges
from phasegrad.progress import track

_CALLER = "sensitivity"


def sensitivity(
    net: nn.Module,
    evaluate: Callable[[nn.Module], float],
    *,
    time: float = 86_400.0,
    chips: int = 10,
    seed: int = 0,
    compensation: Any = "tile",
    target: float | None = None,
    temperature: float | None = None,
    how: Any = None,
    faults: Any = None,
    map_around: Sequence[str] = (),
    refresh: float | None = None,
    progress: bool = True,
) -> Sensitivity:
    """Measure what each layer costs on a chip, and how many layers must be digital for the target.

    First, each layer alone is on the chip while all others compute digitally. Then layers become digital one after
    another, the costliest first, until the mean over chips reaches the target. The order is that of the costs alone: it
    is good, not proven best. All measurements use the same chips, so that differences between layers are not those
    between chips. A tied layer counts with the layers that share its weight, and a layer of several matrices, such as
    an LSTM, as one. Each chip is evaluated once per layer, and once more per layer that becomes digital.

    Args:
        net: a converted net; neither it nor torch's generator is modified.
        evaluate: ``net -> number``, larger is better, such as the accuracy on a test set. It is called with nets that
            are partly or wholly digital.
        time: age of the chips [s].
        chips: number of chips.
        seed: seed of the chips, which are those of ``accuracy_over_time`` with this seed.
        compensation: drift compensation, as in ``accuracy_over_time``.
        target: value to reach; ``None`` for 99 % of that of the digital net, which is then required to be positive.
        temperature: temperature of the chips [K], as in ``accuracy_over_time``.
        how: how the chips are programmed; see [`program`][phasegrad.inference.program].
        faults: devices that are stuck; see [`program`][phasegrad.inference.program].
        map_around: ways to program around the faults; see [`program`][phasegrad.inference.program].
        refresh: time between rewrites of all layers [s], as in ``accuracy_over_time``.
        progress: whether to show progress.

    Returns:
        A [`Sensitivity`][phasegrad.inference.Sensitivity]: ``print`` it, ``.plot(path)`` it; its ``keep_digital`` is
        ``skip`` of [`convert`][phasegrad.convert] and ``only`` of [`to_digital`][phasegrad.to_digital].

    Warns:
        UncalibratedWarning: layers were never calibrated, so their converter ranges are start values.

    Raises:
        ValueError: the net has no analog layer, is programmed already, or has a non-finite weight; ``target`` is above
            the value of the digital net; or ``evaluate`` returns a value that is not finite.

    References:
        Rasch, M. J. et al. Hardware-aware training for large-scale and diverse deep learning inference workloads using
        in-memory computing-based accelerators. Nat. Commun. 14, 5282 (2023): layers one at a time, and iso-accuracy as
        99 %. https://doi.org/10.1038/s41467-023-40770-4
    """
    chips, seed = checks.integer(_CALLER, "chips", chips, 1), checks.seed(_CALLER, seed)
    checks.function(_CALLER, "evaluate", evaluate, "net -> number")
    checks.flag(_CALLER, "progress", progress)
    times = check_times(_CALLER, (checks.number(_CALLER, "time", time, 0.0, unit="s"),))
    if compensation is not None:
        check_compensation(_CALLER, compensation)
    require_digital(net, _CALLER)
    refresh = check_refresh(net, _CALLER, refresh)
    warn_start_ranges(net, _CALLER)
    programming = {"how": how, "faults": faults, "map_around": map_around}

    def aged(chip_seed: int) -> nn.Module:
        return next(chip_over_time(net, chip_seed, times, compensation, temperature, programming, refresh))

    with torch.random.fork_rng():
        measurement = _Measurement(net, evaluate, aged, [seed_of_chip(seed, i) for i in range(chips)])
        goal = _checked_target(target, measurement.reference)
        total = chips * (len(measurement.layers) + 1)
        with track(total, unit="read", label=f"layers at {format_time(time)}", shown=progress) as bar:
            alone, analog = measurement.alone(bar.update)
            order = np.argsort(alone.mean(1), kind="stable")  # the costliest layer first
            path = measurement.path(order, analog, goal)
    weights = tuple(_weights(net, names) for names in measurement.layers)
    return Sensitivity(
        measurement.layers, weights, float(time), measurement.reference, goal, alone, tuple(map(int, order)), path
    )


class _Measurement:
    """Evaluations of the same chips with different layers made digital."""

    def __init__(
        self, net: nn.Module, evaluate: Callable[[nn.Module], float], aged: Callable[[int], nn.Module],
        seeds: Sequence[int],
    ) -> None:  # fmt: skip
        self.layers = tuple(_groups(net))
        self._evaluate, self._aged, self._seeds = evaluate, aged, seeds
        self._digital = to_digital(net).eval()
        self.reference = self._value(self._digital, seeds[0], "the digital net")

    def alone(self, done: Callable[[], None]) -> tuple[np.ndarray, np.ndarray]:
        """Values ``[layers, chips]`` with one layer alone on the chip, and ``[chips]`` with all layers on it."""
        alone, analog = np.empty((len(self.layers), len(self._seeds))), np.empty(len(self._seeds))
        for i, seed in enumerate(self._seeds):
            chip = self._aged(seed)
            for k, names in enumerate(self.layers):
                others = [name for group in self.layers if group is not names for name in group]
                alone[k, i] = self._value(self._mixed(chip, others), seed, f"chip {i} with {names[0]} alone")
                done()
            analog[i] = self._value(chip, seed, f"chip {i}")
            done()
        return alone, analog

    def path(self, order: np.ndarray, analog: np.ndarray, target: float) -> np.ndarray:
        """Values ``[steps, chips]`` with none, one, two, ... layers digital, until the mean reaches the target."""
        path, digital = [analog], []
        for k in order:
            if path[-1].mean() >= target:
                break
            digital.extend(self.layers[k])
            values = [self._value(self._mixed(self._aged(s), digital), s, f"{digital} digital") for s in self._seeds]
            path.append(np.array(values))
        return np.stack(path)

    def _mixed(self, chip: nn.Module, digital: list[str]) -> nn.Module:
        """A copy of a chip whose named layers are those of the digital net."""
        if not digital:
            return chip
        mixed = to_digital(chip, only=digital)
        for name in digital:
            mixed.get_submodule(name).load_state_dict(self._digital.get_submodule(name).state_dict())
        return mixed

    def _value(self, net: nn.Module, seed: int, where: str) -> float:
        torch.manual_seed(seed)  # the same reads, whatever is digital
        return checks.result(_CALLER, "evaluate", self._evaluate(net), f" for {where}")


def _groups(net: nn.Module) -> Iterator[tuple[str, ...]]:
    """The names of the counterparts of a net; those that share a weight together."""
    found = counterparts(net)
    weights = {name: {id(layer.weight) for layer in analog_layers(m).values()} for name, m in found.items()}
    while weights:
        first = next(iter(weights))
        group, shared = [first], weights.pop(first)
        while tied := [name for name, own in weights.items() if own & shared]:
            for name in tied:
                shared = shared | weights.pop(name)
            group.extend(tied)
        yield tuple(group)


def _weights(net: nn.Module, names: tuple[str, ...]) -> int:
    layers = [layer for name in names for layer in analog_layers(net.get_submodule(name)).values()]
    return sum({id(layer.weight): layer.weight.numel() for layer in layers}.values())


def _checked_target(target: object, reference: float) -> float:
    if target is None:
        if reference <= 0.0:
            raise ValueError(
                f"{_CALLER}: evaluate returned {reference:g} for the digital net, of which 99 % is no target; pass "
                "target, or return a number of which larger is better, such as an accuracy"
            )
        return 0.99 * reference
    goal = checks.number(_CALLER, "target", target)
    if goal > reference:
        raise ValueError(
            f"{_CALLER}: target = {goal:g} is above {reference:g}, the value of the digital net; no layer that is kept "
            "digital can reach it"
        )
    return goal
