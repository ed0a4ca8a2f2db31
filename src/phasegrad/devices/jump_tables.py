"""Jump tables: steps drawn from distributions that were measured, or simulated from another law.

A table holds, at even conductances, the inverse of the cumulative distribution of one pulse's step. It is made of what
single pulses did: their steps are sorted into bins of conductance, and each bin gives a row of even quantiles.

Source: Burr et al., IEEE TED 62:3498 (2015).
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
    """Steps drawn from distributions: at even conductances, the quantiles of the step.

    ``size`` is the unit of the quantiles and the nominal step; ``c2c`` has no meaning here and must be 0.

    Args:
        up: for each of two or more conductances from lowest to highest, even quantiles (0 to 1, two or more, rising)
            of the step up over ``size``. A step may be negative.
        down: the same of the step down, counted positive when the conductance falls; empty for a device that pulses
            only raise, such as PCM, whose RESET is abrupt.
        reset: the lowest conductance, that of the first rows [S].
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
                "quantiles; give two rows or more up, as many or none down, all of one length"
            )
        rising = (-math.inf < a <= b < math.inf for row in rows for a, b in itertools.pairwise(row))
        if len(rows[0]) < 2 or not all(rising):
            raise ValueError("JumpTable: a row is no inverse CDF; its two or more quantiles must be finite and rising")
        if self.c2c != 0.0:
            raise ValueError(f"JumpTable: c2c = {self.c2c}; the table holds all of the noise, so it must be 0")

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
        """``reset``."""
        return self.reset

    def coefficients(self, g_max: float) -> tuple[float, ...]:
        """The tables' size, then both; in a pair the second is never looked up."""
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
        """A table from raw data: what single pulses did.

        A pulse belongs to the point of conductance that is nearest to where it began; what began beyond an end
        belongs to that end. A point with fewer pulses than quantiles cannot resolve them and counts as empty: its row
        is interpolated between the nearest points that are not, or is that of the nearest beyond the last of them.
        The lowest and the highest quantile are not the extremes of the sample, which depend on its size, but lie where
        the mean of the outermost steps is kept.

        Args:
            up: conductances ``[n]`` before and after pulses up (SET, potentiation) [S].
            down: the same for pulses down (depression); ``None`` for a device that pulses only raise.
            g_max: the conductance of the last point, that of the device that will have the table [S].
            reset: the conductance of the first point [S].
            size: nominal step [S]; the mean of all steps up if left out.
            points: conductances of the table, two or more.
            quantiles: of a row, two or more.

        Raises:
            ValueError: the range is empty, a conductance is not finite or lies a whole range beyond an end, lengths
                differ, there are too few pulses, or ``size``, or the mean step up where it is left out, is not above 0.

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
        """The histogram of steps by conductance over simulated pulse trains, as it would be measured on devices.

        Trains up start at the lowest conductance, after RESET; trains down, where there are any, where those end. What
        a device remembers of its past is averaged over as the trains meet it: a table has no memory. The devices are
        nominal; the law's spread from device to device becomes the table's own.

        Args:
            law: how the simulated device answers pulses.
            g_max: its highest conductance, and that of the device that will have the table [S].
            trains: simulated trains in each direction.
            length: pulses of a train; as many nominal steps as twice the range if left out.
            points: conductances of the table, two or more.
            quantiles: of a row, two or more.
            seed: of the simulation.

        Raises:
            ValueError: there is no train or no pulse; else as :meth:`from_pulses`.

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
        lives = {name: getattr(law, name) for name in ("d2d", "imbalance", "bounds_d2d", "stuck")}
        return dataclasses.replace(table, **lives)


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
            "the pulses; give one of each for every pulse, [n] and [n]"
        )
    if not bool(torch.isfinite(before).all()) or not bool(torch.isfinite(after).all()):
        raise ValueError(f"JumpTable: {name} holds conductances that are not finite; leave those pulses out")
    if bool(((before - 0.5 * (g_max + reset)).abs() > 1.5 * (g_max - reset)).any()):
        raise ValueError(
            f"JumpTable: {name} begins at {before.min().item():g} to {before.max().item():g} S, far beyond the range "
            f"of {reset:g} to {g_max:g} S; give conductances in siemens, and leave outliers out"
        )
    return before, after


def _rows(name: str, at: Tensor, step: Tensor, points: int, quantiles: int) -> tuple[tuple[float, ...], ...]:
    """Quantiles of ``step`` at each point of [0, 1]; a pulse belongs to the point nearest to ``at``."""
    nearest = (at.clamp(0.0, 1.0) * (points - 1)).round().long()
    filled = torch.bincount(nearest, minlength=points) >= quantiles
    if not bool(filled.any()):
        raise ValueError(
            f"JumpTable: {len(at)} pulses {name} are too few for {points} points of {quantiles} quantiles: no point "
            f"has {quantiles} pulses; measure more, or ask for fewer points or quantiles"
        )
    rows = {int(i): _quantiles(step[nearest == i], quantiles) for i in filled.nonzero().flatten()}
    return tuple(tuple(_between(rows, i).tolist()) for i in range(points))


def _quantiles(step: Tensor, n: int) -> Tensor:
    """Even quantiles; the outermost are set so that the mean beyond their neighbours is the sample's."""
    step = step.sort().values
    at = torch.linspace(0.0, len(step) - 1.0, n, dtype=step.dtype)  # torch.quantile refuses large samples
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
    """What each pulse of ``trains`` trains did, ``[trains x length]``; up, and then down."""
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
