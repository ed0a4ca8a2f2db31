"""Jump tables: steps drawn from distributions that were measured, or simulated from another law.

A table stores the inverse cumulative distribution of the step of one pulse at equidistant conductances. It is built
from steps of single pulses, sorted into bins of conductance; each bin yields a row of equidistant quantiles.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from phasegrad.configuration import check_number
from phasegrad.devices.steps import Steps
from phasegrad.ops import pulses

Pulsed = tuple[Tensor, Tensor]
"""Conductances ``[n]`` before and after ``n`` pulses [S]."""


@final
@dataclass(frozen=True, kw_only=True)
class JumpTable(Steps):
    """Steps drawn from distributions, given as quantiles of the step at equidistant conductances.

    ``size`` is the unit of the quantiles and the nominal step. ``c2c`` must be 0, because the table contains the noise.

    Args:
        up: rows of quantiles of the step up over ``size``, for two or more equidistant conductances from lowest to
            highest. A row has two or more equidistant quantiles from 0 to 1 in increasing order. A step may be
            negative.
        down: rows of the step down, positive where the conductance decreases; empty for a device whose pulses only
            raise the conductance, such as PCM, whose RESET is abrupt.
        reset: lowest conductance, that of the first rows [S].

    References:
        Burr, G. W. et al. Experimental demonstration and tolerancing of a large-scale neural network (165 000 synapses)
        using phase-change memory as the synaptic weight element. IEEE Trans. Electron Devices 62, 3498 (2015).
        https://doi.org/10.1109/TED.2015.2439635
    """

    up: tuple[tuple[float, ...], ...]
    down: tuple[tuple[float, ...], ...] = ()
    reset: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "reset", 0.0)
        rows = (*self.up, *self.down)
        if len(self.up) < 2 or (self.down and len(self.up) != len(self.down)) or len({len(row) for row in rows}) != 1:
            raise ValueError(
                f"JumpTable: {len(self.up)} rows up and {len(self.down)} down of {sorted({len(r) for r in rows})} "
                "quantiles; give two or more rows up, the same number or none down, all of the same length"
            )
        rising = (-math.inf < a <= b < math.inf for row in rows for a, b in itertools.pairwise(row))
        if len(rows[0]) < 2 or not all(rising):
            raise ValueError(
                "JumpTable: a row is not an inverse CDF; it must have two or more finite quantiles in increasing order"
            )
        if self.c2c != 0.0:
            raise ValueError(f"JumpTable: c2c = {self.c2c}; it must be 0, because the table contains all of the noise")

    @property
    def family(self) -> int:
        """Number of the law."""
        return pulses.TABLE

    @property
    def two_sided(self) -> bool:
        """Whether there is a table of steps down."""
        return bool(self.down)

    @property
    def lowest(self) -> float:
        """``reset``, the lowest conductance [S]."""
        return self.reset

    def coefficients(self, g_max: float) -> tuple[float, ...]:
        """Size of the tables, then both; without steps down the steps up are repeated, which a pair ignores."""
        quantiles = (q for table in (self.up, self.down or self.up) for row in table for q in row)
        return (0.0, float(len(self.up)), float(len(self.up[0])), *quantiles)

    @staticmethod
    def from_pulses(
        up: Pulsed,
        down: Pulsed | None = None,
        *,
        g_max: float,
        reset: float = 0.0,
        size: float | None = None,
        points: int = 25,
        quantiles: int = 51,
    ) -> JumpTable:
        """Build a table from measured steps of single pulses.

        A pulse is assigned to the point nearest to its initial conductance, or to the nearest end if that lies outside
        the range. A point with fewer pulses than quantiles counts as empty: its row is interpolated between the nearest
        points that are not empty, or copied from the nearest one. The lowest and the highest quantile are set to
        preserve the mean of the outermost steps, because the extremes of a sample depend on its size.

        Args:
            up: conductances ``[n]`` before and after pulses up (SET, potentiation) [S].
            down: conductances ``[n]`` before and after pulses down (depression) [S]; ``None`` for a device whose pulses
                only raise the conductance.
            g_max: conductance of the last point, equal to ``g_max`` of the device that uses the table [S].
            reset: conductance of the first point [S].
            size: nominal step [S]; ``None`` for the mean of all steps up.
            points: conductances of the table, two or more.
            quantiles: quantiles per row, two or more.

        Raises:
            ValueError: the range is empty, a conductance is not finite or lies more than a range beyond an end, lengths
                differ, there are too few pulses, or ``size`` or the mean step up is not above 0.

        Examples:
            >>> before = torch.rand(10_000, generator=torch.Generator().manual_seed(0)) * 20e-6
            >>> after = before + 0.1e-6 * (1 - before / 20e-6)
            >>> table = JumpTable.from_pulses((before, after), g_max=20e-6, size=0.1e-6)
            >>> [round(table.up[i][25], 1) for i in (0, 12, 24)], table.two_sided
            ([1.0, 0.5, 0.0], False)
        """
        _check_grid(g_max, reset, points, quantiles)
        sides = [_checked(name, pulsed, g_max, reset) for name, pulsed in (("up", up), ("down", down)) if pulsed]
        if size is None:
            size = (sides[0][1] - sides[0][0]).mean().item()
        if not 0.0 < size < math.inf:
            raise ValueError(f"JumpTable: size = {size} S; the nominal step, or the mean step up, must be above 0")
        tables = [
            _rows(name, (before - reset) / (g_max - reset), sign * (after - before) / size, points, quantiles)
            for (name, sign), (before, after) in zip((("up", 1.0), ("down", -1.0)), sides, strict=False)
        ]
        return JumpTable(size=size, up=tables[0], down=tables[1] if len(tables) > 1 else (), reset=reset)

    @staticmethod
    def from_law(
        law: Steps,
        *,
        g_max: float,
        trains: int = 1000,
        length: int | None = None,
        points: int = 25,
        quantiles: int = 51,
        seed: int = 0,
    ) -> JumpTable:
        """Build a table from simulated pulse trains, as a measurement on devices would.

        Trains up start at the lowest conductance, after RESET. Trains down, if the law has them, start where the trains
        up end. A table has no history: the history of a device is averaged over the trains. The simulated devices are
        nominal, and the table keeps the device-to-device variation of the law.

        Args:
            law: step law of the simulated device.
            g_max: highest conductance of the simulated device and of the device that uses the table [S].
            trains: simulated trains in each direction.
            length: pulses per train; ``None`` for the nominal steps in twice the range.
            points: conductances of the table, two or more.
            quantiles: quantiles per row, two or more.
            seed: seed of the simulation.

        Raises:
            ValueError: ``trains`` or ``length`` is below 1, or for the reasons listed in ``from_pulses``.

        Examples:
            >>> from phasegrad.devices import nandakumar_2018
            >>> table = JumpTable.from_law(nandakumar_2018(), g_max=12e-6)
            >>> table.two_sided, table.reset
            (False, 1e-07)
        """
        nominal = dataclasses.replace(law, d2d=0.0, imbalance=0.0, bounds_d2d=0.0, stuck=0.0)
        _check_grid(g_max, law.lowest, points, quantiles)
        length = math.ceil(2.0 * (g_max - law.lowest) / law.size) if length is None else length
        if trains < 1 or length < 1:
            raise ValueError(f"JumpTable: trains = {trains} and length = {length}; each must be 1 or more")
        up, down = _simulate(nominal, g_max, trains, length, seed)
        table = JumpTable.from_pulses(
            up, down, g_max=g_max, reset=law.lowest, size=law.size, points=points, quantiles=quantiles
        )
        variation = {name: getattr(law, name) for name in ("d2d", "imbalance", "bounds_d2d", "stuck")}
        return dataclasses.replace(table, **variation)


def _check_grid(g_max: float, reset: float, points: int, quantiles: int) -> None:
    if not 0.0 <= reset < g_max < math.inf:
        raise ValueError(
            f"JumpTable: reset = {reset} S and g_max = {g_max} S; both must be finite, and 0 <= reset < g_max"
        )
    if points < 2 or quantiles < 2:
        raise ValueError(f"JumpTable: points = {points} and quantiles = {quantiles}; each must be 2 or more")


def _checked(name: str, pulsed: Pulsed, g_max: float, reset: float) -> Pulsed:
    before, after = (torch.as_tensor(g).detach().double() for g in pulsed)
    if before.dim() != 1 or before.shape != after.shape:
        raise ValueError(
            f"JumpTable: {name} has conductances of shape {list(before.shape)} before and {list(after.shape)} after "
            "the pulses; give one of each per pulse, [n] and [n]"
        )
    if not bool(torch.isfinite(before).all()) or not bool(torch.isfinite(after).all()):
        raise ValueError(f"JumpTable: {name} has conductances that are not finite; remove those pulses")
    if bool(((before - 0.5 * (g_max + reset)).abs() > 1.5 * (g_max - reset)).any()):
        raise ValueError(
            f"JumpTable: {name} starts at conductances of {before.min().item():g} to {before.max().item():g} S, far "
            f"outside the range {reset:g} to {g_max:g} S; give conductances in siemens, and remove outliers"
        )
    return before, after


def _rows(name: str, at: Tensor, step: Tensor, points: int, quantiles: int) -> tuple[tuple[float, ...], ...]:
    """Quantiles of ``step`` at each point of [0, 1]; a pulse is assigned to the point nearest to ``at``."""
    nearest = (at.clamp(0.0, 1.0) * (points - 1)).round().long()
    filled = torch.bincount(nearest, minlength=points) >= quantiles
    if not bool(filled.any()):
        raise ValueError(
            f"JumpTable: {len(at)} pulses {name} are too few for {points} points of {quantiles} quantiles: no point "
            f"has {quantiles} pulses; measure more pulses, or reduce points or quantiles"
        )
    rows = {int(i): _quantiles(step[nearest == i], quantiles) for i in filled.nonzero().flatten()}
    return tuple(tuple(_between(rows, i).tolist()) for i in range(points))


def _quantiles(step: Tensor, n: int) -> Tensor:
    """Equidistant quantiles; the outermost are set to preserve the mean of the steps beyond their neighbours."""
    step = step.sort().values
    at = torch.linspace(0.0, len(step) - 1.0, n, dtype=step.dtype)  # torch.quantile rejects large samples
    left = at.long().clamp(max=max(len(step) - 2, 0))
    row = torch.lerp(step[left], step[(left + 1).clamp(max=len(step) - 1)], at - left)
    if n > 2:
        row[0] = 2.0 * step[step <= row[1]].mean() - row[1]
        row[-1] = 2.0 * step[step >= row[-2]].mean() - row[-2]
    return row.cummax(0).values


def _between(rows: dict[int, Tensor], i: int) -> Tensor:
    left = max((k for k in rows if k <= i), default=min(rows))
    right = min((k for k in rows if k >= i), default=max(rows))
    return rows[left] if left >= right else torch.lerp(rows[left], rows[right], (i - left) / (right - left))


def _simulate(law: Steps, g_max: float, trains: int, length: int, seed: int) -> tuple[Pulsed, Pulsed | None]:
    """Conductances before and after each pulse ``[trains x length]``, for pulses up and down."""
    key = torch.tensor([seed])
    planes = (0, 0) if law.two_sided else (0, 1)
    shape = (planes[1] + 1, 1, trains)
    parameters = law.draw(shape, g_max, law.two_sided, key, 0)
    conductance = parameters[2].clone()
    history = torch.ones(shape) if law.has_history else None
    coefficients = torch.tensor(law.coefficients(g_max), dtype=torch.float32)
    seen = []
    for side, sign in enumerate((1, -1) if law.two_sided else (1,)):
        counts = torch.full(shape[1:], sign, dtype=torch.int32)
        readings = [conductance[0, 0].clone()]
        for i in range(length):
            torch.ops.phasegrad.pulse_counts(
                conductance, history, None, None, None, [], parameters, counts, 0.0, planes, law.family, coefficients,
                key, side * length + i,
            )  # fmt: skip
            readings.append(conductance[0, 0].clone())
        seen.append((torch.cat(readings[:-1]), torch.cat(readings[1:])))
    return seen[0], seen[1] if law.two_sided else None
