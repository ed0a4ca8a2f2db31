"""Which pulse comes next: strategies of write-and-verify."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, final

import torch
from torch import Tensor

from phasegrad.cells import Cell
from phasegrad.configuration import Configuration, check_number
from phasegrad.stores.programming.pulses import Pulses


class Site(NamedTuple):
    """What a strategy knows of the devices that it programs."""

    cell: Cell
    targets: Tensor
    """Target conductances ``[devices, cells]`` [S]."""
    relative: Tensor
    """Weights ``[cells]`` in [-1, 1]."""
    planes: tuple[int, int]
    """The devices of a cell that ``Pulses.counts`` pulses to increase and to decrease the weight."""
    rows: Tensor
    """Row of each cell within its tile, int64 ``[cells]``."""
    iterations: int
    """Largest number of rounds after the preparation."""


class Run(ABC):
    """A strategy at work on some cells. All of its tensors are ``[devices, cells]`` or ``[cells]``."""

    @abstractmethod
    def pulses(self, read: Tensor | None, attempt: int, unfinished: Tensor) -> Pulses | None:
        """The next round of pulses.

        Args:
            read: the last verify read ``[devices, cells]`` [S]; ``None`` before the first.
            attempt: rounds so far.
            unfinished: devices whose error was never within the tolerance, bool of the same shape.

        Returns:
            ``None`` if nothing is left to do.
        """

    @abstractmethod
    def residual(self, read: Tensor) -> Tensor:
        """The errors that must be within the tolerance ``[devices, cells]`` [S]; 0 where nothing is asked for."""

    @abstractmethod
    def keep(self, chosen: Tensor) -> Run:
        """The run of some of the cells, bool ``[cells]`` or their indices."""


@dataclass(frozen=True, kw_only=True)
class Strategy(Configuration, ABC):
    """Says, for each device, which pulse comes next after a verify read."""

    preparation: ClassVar[int] = 1
    """Rounds before the first that counts as an iteration."""

    def check(self, cell: Cell) -> None:
        """Raise ``ValueError`` if the devices of a cell cannot follow; nothing is written then."""

    @abstractmethod
    def begin(self, site: Site) -> Run:
        """Start on some cells."""


def require_amplitude(strategy: Strategy, cell: Cell) -> None:
    """Raise ``ValueError`` unless devices can be programmed by the current of pulses."""
    if cell.device.amplitude is None:
        raise ValueError(
            f"{type(strategy).__name__}: the device of the cell, {type(cell.device).__name__}, has amplitude = None, "
            "so it is not known how the current of a pulse changes it; use devices.melt_and_quench(), or "
            "dataclasses.replace(device, amplitude=devices.AmplitudeResponse())"
        )


@final
@dataclass(frozen=True, kw_only=True)
class AmplitudeSteps(Strategy):
    """Iterative programming of every device by itself, by the current of melting pulses (Joshi et al. 2020).

    A RESET pulse comes first. Devices with a target receive square pulses: the first has the current at which the
    median device has its target, limited to ``start``; each further one has the last current plus ``gain`` times the
    error of the last read, limited to ``currents``. Devices without a target stay at RESET.

    Args:
        reset_current: current of the RESET pulse [A].
        reset_duration: its duration [s].
        start: lowest and highest current of the first pulse [A].
        currents: lowest and highest current of the others [A].
        duration: duration of these pulses [s].
        gain: change of the current per error [A/S]. The published rule states no number; the default is a little less
            than the inverse of the steepest slope of the standard curve.

    References:
        Joshi, V. et al. Accurate deep neural network inference using computational phase-change memory. Nat. Commun.
        11, 2473 (2020), Methods. https://doi.org/10.1038/s41467-020-16108-9
    """

    reset_current: float = 450e-6
    reset_duration: float = 50e-9
    start: tuple[float, float] = (60e-6, 160e-6)
    currents: tuple[float, float] = (80e-6, 400e-6)
    duration: float = 1e-6
    gain: float = 6.0

    def __post_init__(self) -> None:
        for name in ("reset_current", "reset_duration", "duration", "gain"):
            check_number(self, name, 0.0, above=True)
        for name in ("start", "currents"):
            bounds = getattr(self, name)
            if len(bounds) != 2 or not 0.0 < bounds[0] <= bounds[1]:
                raise ValueError(
                    f"AmplitudeSteps: {name} = {bounds}; give the lowest current and then the highest, both above 0"
                )

    def check(self, cell: Cell) -> None:
        """Raise ``ValueError`` unless the devices have a response to the current of a pulse."""
        require_amplitude(self, cell)

    def begin(self, site: Site) -> Run:
        """Start on some cells."""
        curve = site.cell.device.amplitude
        assert curve is not None
        asked = site.targets > site.cell.device.lowest + 1e-6 * site.cell.device.g_max
        first = curve.current(site.targets).clamp_(*self.start)
        return _AmplitudeRun(self, site.targets, asked, first)


class _AmplitudeRun(Run):
    def __init__(self, strategy: AmplitudeSteps, targets: Tensor, asked: Tensor, current: Tensor) -> None:
        self.strategy, self.targets, self.asked, self.current = strategy, targets, asked, current

    def pulses(self, read: Tensor | None, attempt: int, unfinished: Tensor) -> Pulses | None:
        strategy = self.strategy
        if read is None:
            everywhere = torch.full_like(self.targets, strategy.reset_current)
            return Pulses(amplitude=everywhere, duration=strategy.reset_duration)
        if attempt > 1:
            error = read - self.targets
            self.current = self.current.add(error, alpha=strategy.gain).clamp_(*strategy.currents)
        return Pulses(amplitude=self.current * unfinished, duration=strategy.duration)

    def residual(self, read: Tensor) -> Tensor:
        return (read - self.targets) * self.asked

    def keep(self, chosen: Tensor) -> Run:
        parts = (part[:, chosen] for part in (self.targets, self.asked, self.current))
        return _AmplitudeRun(self.strategy, *parts)


@final
@dataclass(frozen=True, kw_only=True)
class SetCounts(Strategy):
    """RESET, then counted SET pulses and reads in turn, for devices with a step law.

    A device beyond its target that no pulse brings back is RESET and starts again, except in the last third of the
    iterations, because pulses must follow a RESET.
    """

    def check(self, cell: Cell) -> None:
        """Raise ``ValueError`` unless the devices have a step law."""
        if cell.device.steps is None:
            raise ValueError(
                f"SetCounts: the device of the cell, {type(cell.device).__name__}, has steps = None, so it is not "
                "known how a SET pulse changes it; use devices.nandakumar_2018_device(), or "
                "dataclasses.replace(device, steps=...)"
            )
        if len(cell.factors) > 2:
            raise ValueError(
                f"SetCounts: the cell, {type(cell).__name__}, has {len(cell.factors)} devices, of which it pulses only "
                "two; use a DifferentialPair, or AmplitudeSteps with devices.melt_and_quench()"
            )

    def begin(self, site: Site) -> Run:
        """Start on some cells."""
        return _CountRun(site.targets, site.planes, site.iterations)


class _CountRun(Run):
    def __init__(self, targets: Tensor, planes: tuple[int, int], iterations: int) -> None:
        self.targets, self.planes, self.iterations = targets, planes, iterations

    def pulses(self, read: Tensor | None, attempt: int, unfinished: Tensor) -> Pulses | None:
        if read is None:
            return Pulses(reset=torch.ones_like(self.targets, dtype=torch.bool))
        (up, down), error = self.planes, self.targets - read
        below, above = unfinished & (error > 0.0), unfinished & (error < 0.0)
        less = below[down] if up != down else above[up]
        counts = below[up].to(torch.int32) - less.to(torch.int32)
        restarts = up != down and 3 * (attempt - 1) < 2 * self.iterations
        reset = above if restarts else torch.zeros_like(above)
        if not bool(counts.any()) and not bool(reset.any()):
            return None
        return Pulses(reset=reset, counts=counts, planes=self.planes)

    def residual(self, read: Tensor) -> Tensor:
        return read - self.targets

    def keep(self, chosen: Tensor) -> Run:
        return _CountRun(self.targets[:, chosen], self.planes, self.iterations)
