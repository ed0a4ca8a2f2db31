"""Accuracy against the memory window, the noise and the drift of a device, and the age of the chip."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from phasegrad import argument_checks as checks
from phasegrad.devices import PCM, scaled
from phasegrad.devices.scaling import check_window
from phasegrad.inference.accuracy import accuracy_over_time, require_digital
from phasegrad.inference.compensation import check_compensation
from phasegrad.inference.refreshing import check_refresh
from phasegrad.inference.report import Report
from phasegrad.inference.tables import write_csv
from phasegrad.inference.times import check_times, format_time
from phasegrad.nn import analog_layers
from phasegrad.nn.copying import copy_net
from phasegrad.nn.start_ranges import warn_start_ranges
from phasegrad.progress import track

_CALLER = "design_map"


@dataclass(frozen=True)
class DesignMap:
    """Measurements of [`design_map`][phasegrad.inference.design_map].

    Attributes:
        windows: memory windows ``g_max / g_min``; ``None`` for that of the device.
        noise: factors of the noise.
        drift: factors of the drift exponents.
        times: times since programming [s].
        values: return values of ``evaluate``, ``[windows, noise, drift, times, chips]``.
        seed: seed of the chips.
    """

    windows: tuple[float | None, ...]
    noise: tuple[float, ...]
    drift: tuple[float, ...]
    times: tuple[float, ...]
    values: np.ndarray
    seed: int

    def mean(self) -> np.ndarray:
        """Mean over chips, ``[windows, noise, drift, times]``."""
        return self.values.mean(-1)

    def report(self, window: int = 0, noise: int = 0, drift: int = 0) -> Report:
        """The report over time of one point of the grid, by its index on each axis."""
        return Report(self.times, self.values[window, noise, drift], self.seed, None)

    def rows(self) -> list[dict[str, float | None]]:
        """One dictionary per point and time: ``window``, ``noise``, ``drift``, ``time_s``, ``mean``, ``sd``, ``worst``.

        ``window`` is ``None`` for that of the device. ``sd`` is 0 for a single chip.
        """
        axes = itertools.product(self.windows, self.noise, self.drift, self.times)
        names, points = ("window", "noise", "drift", "time_s"), self.values.reshape(-1, self.values.shape[-1])
        sd = points.std(1, ddof=1) if points.shape[1] > 1 else np.zeros(len(points))
        return [
            {**dict(zip(names, point, strict=True)), "mean": float(v.mean()), "sd": float(s), "worst": float(v.min())}
            for point, v, s in zip(axes, points, sd, strict=True)
        ]

    def __str__(self) -> str:
        head = f"{'window':>8}  {'noise':>6}  {'drift':>6}  " + "  ".join(f"{format_time(t):>9}" for t in self.times)
        lines = [
            f"{_window_text(w):>8}  {n:6g}  {d:6g}  " + "  ".join(f"{v:9.4f}" for v in self.mean()[i, j, k])
            for (i, w), (j, n), (k, d) in itertools.product(*map(enumerate, (self.windows, self.noise, self.drift)))
        ]
        title = f"mean over {self.values.shape[-1]} chip(s), seed {self.seed}"
        return "\n".join([title, head, "-" * len(head), *lines])

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one row per point, time and chip: ``window, noise, drift, time_s, chip, value``.

        The window of the device is an empty field. Raises as [`Report.to_csv`][phasegrad.inference.Report.to_csv].
        """
        axes = itertools.product(self.windows, self.noise, self.drift, self.times, range(self.values.shape[-1]))
        rows = [(*point, float(value)) for point, value in zip(axes, self.values.flat, strict=True)]
        write_csv(path, ("window", "noise", "drift", "time_s", "chip", "value"), rows)

    def plot(self, path: str | os.PathLike[str] | None = None, **options: Any) -> Any:
        """Draw noise against drift, one panel per window and time; options as for ``phasegrad.plot.design_map``."""
        from phasegrad.plot import design_map as draw  # plot is the layer above, so it is imported only to draw

        return draw(self, path, **options)


def design_map(
    net: nn.Module,
    evaluate: Callable[[nn.Module], float],
    *,
    windows: Iterable[float | None] = (None,),
    noise: Iterable[float] = (0.5, 1.0, 2.0),
    drift: Iterable[float] = (0.0, 1.0, 2.0),
    times: Sequence[float] = (1.0, 86_400.0, 3.15e7),
    chips: int = 5,
    seed: int = 0,
    compensation: Any = "tile",
    temperature: float | None = None,
    how: Any = None,
    faults: Any = None,
    map_around: Sequence[str] = (),
    refresh: float | None = None,
    progress: bool = True,
) -> DesignMap:
    """Measure how good a device must be: accuracy on a grid of memory window, noise, drift and age.

    Every point has the net's hardware with a device changed by [`scaled`][phasegrad.devices.scaled], and is measured by
    [`accuracy_over_time`][phasegrad.inference.accuracy_over_time]; all points have the same seeds. The net is not
    trained again.

    Args:
        net: a converted net whose devices are `PCM`; neither it nor torch's generator is modified.
        evaluate: ``chip -> number``, such as the accuracy on a test set.
        windows: memory windows ``g_max / g_min``, above 1, perhaps infinite; ``None`` for that of the device.
        noise: factors of the noise of programming and of reads.
        drift: factors of the drift exponents.
        times: times since programming [s], in increasing order.
        chips: number of chips per point.
        seed: seed of the chips.
        compensation: drift compensation, as in ``accuracy_over_time``.
        temperature: temperature of the chips [K], as in ``accuracy_over_time``.
        how: how the chips are programmed; see [`program`][phasegrad.inference.program].
        faults: devices that are stuck; see [`program`][phasegrad.inference.program].
        map_around: ways to program around the faults; see [`program`][phasegrad.inference.program].
        refresh: time between rewrites of all layers [s], as in ``accuracy_over_time``.
        progress: whether to show progress.

    Returns:
        A [`DesignMap`][phasegrad.inference.DesignMap]: ``print`` it, ``.plot(path)`` it, ``.to_csv(path)``.

    Warns:
        UncalibratedWarning: layers were never calibrated, so their converter ranges are start values.

    Raises:
        TypeError: a device of the net is no ``PCM``.
        ValueError: an axis is empty or has a value out of its range, or as for ``accuracy_over_time``. Nothing has been
            measured then, unless ``evaluate`` returned a value that is not finite.

    References:
        Bruce, R. L. et al. Mushroom-type phase change memory with projection liner: an array-level demonstration of
        conductance drift and noise mitigation. IEEE International Reliability Physics Symposium (2021).

        Li, N. et al. Optimization of projected phase change memory for analog in-memory computing inference. Adv.
        Electron. Mater. (2023): accuracy against window, noise and drift. https://doi.org/10.1002/aelm.202201190
    """
    window_axis, noise_axis, drift_axis = _axis("windows", windows), _axis("noise", noise), _axis("drift", drift)
    known_times, chips = check_times(_CALLER, times), checks.integer(_CALLER, "chips", chips, 1)
    seed = checks.seed(_CALLER, seed)
    checks.function(_CALLER, "evaluate", evaluate, "chip -> number")
    checks.flag(_CALLER, "progress", progress)
    if compensation is not None:
        check_compensation(_CALLER, compensation)
    _check_net(net)
    refresh = check_refresh(net, _CALLER, refresh)
    warn_start_ranges(net, _CALLER)
    points = list(itertools.product(window_axis, noise_axis, drift_axis))
    values = np.empty((len(points), len(known_times), chips))
    shared = {
        "chips": chips, "seed": seed, "compensation": compensation, "temperature": temperature, "how": how,
        "faults": faults, "map_around": map_around, "refresh": refresh, "progress": False,
    }  # fmt: skip
    with track(len(points), unit="point", shown=progress) as bar:
        for i, point in enumerate(points):
            bar.describe("window {}, noise {:g}, drift {:g}".format(_window_text(point[0]), *point[1:]))
            values[i] = accuracy_over_time(_redesigned(net, *point), evaluate, known_times, **shared).values
            bar.update()
    shape = (len(window_axis), len(noise_axis), len(drift_axis), len(known_times), chips)
    return DesignMap(window_axis, noise_axis, drift_axis, known_times, values.reshape(shape), seed)


def _axis(name: str, values: object) -> tuple[Any, ...]:
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes)):
        raise TypeError(f"{_CALLER}: {name} = {checks.shown(values)}; pass a sequence of numbers, such as (1.0, 2.0)")
    points = tuple(values)
    if not points:
        raise ValueError(f"{_CALLER}: {name} is empty; pass at least one value")
    if name == "windows":
        return tuple(None if w is None else check_window(_CALLER, name, w) for w in points)
    return tuple(checks.number(_CALLER, name, value, 0.0) for value in points)


def _check_net(net: nn.Module) -> None:
    for name, layer in require_digital(net, _CALLER).items():
        checks.instance(
            _CALLER, f"the device of {name or 'the net'}", layer.hardware.cell.device, PCM,
            of="a PCM, whose window, noise and drift can be scaled; measure other devices with accuracy_over_time",
        )  # fmt: skip


def _redesigned(net: nn.Module, window: float | None, noise: float, drift: float) -> nn.Module:
    """A copy of a net with other devices, and all else as it was."""
    copied = copy_net(net)
    for layer in analog_layers(copied).values():
        cell = layer.hardware.cell
        assert isinstance(cell.device, PCM)
        device = scaled(cell.device, window=window, noise=noise, drift=drift)
        layer.hardware = replace(layer.hardware, cell=replace(cell, device=device))
    return copied


def _window_text(window: float | None) -> str:
    return "device" if window is None else f"{window:g}"
