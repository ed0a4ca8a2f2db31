"""The result of an estimate: totals, tables, files and pictures."""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from phasegrad import argument_checks as checks
from phasegrad.cost import printing, tables
from phasegrad.cost.conductance import Conductance
from phasegrad.cost.counting import Counts
from phasegrad.cost.energy import COMPONENTS
from phasegrad.cost.latency import Duration, Stages
from phasegrad.cost.operators import OperatorCost
from phasegrad.cost.prices import Prices
from phasegrad.cost.shadow import Call
from phasegrad.cost.technology import Technology
from phasegrad.cost.upkeep import QUANTITIES, Upkeep
from phasegrad.writing import checked_path, write_whole


def ratio(value: float, cost: float) -> float:
    """A figure of merit: infinite where a technology takes no time, no energy or no area."""
    return value / cost if cost else math.inf


@dataclass(frozen=True)
class LayerEstimate:
    """The cost of an analog layer in one forward pass.

    Attributes:
        name: name of the layer.
        kind: its type.
        out_features: outputs of its matrix.
        in_features: inputs of its matrix.
        tiles: its tiles, replicas included.
        replicas: how often its tiles exist.
        devices: its devices, replicas included.
        utilisation: fraction of the unit cells in its tiles that store weights.
        counts: what its tiles do.
        calls: its calls.
        stages: time of a vector in the stages of its tiles [s].
        duration: time of all its vectors [s].
        energies: energy of each component [J], without static power; NaN where a constant is missing.
        areas: area of each component [m^2]; NaN where a constant is missing.
        conductance: the conductance of its devices, if their values are known.
        upkeep: energy and time of programming and recalibration.
    """

    name: str
    kind: str
    out_features: int
    in_features: int
    tiles: int
    replicas: int
    devices: int
    utilisation: float
    counts: Counts
    calls: tuple[Call, ...] = field(repr=False)
    stages: Stages
    duration: Duration
    energies: Mapping[str, float]
    areas: Mapping[str, float]
    conductance: Conductance | None
    upkeep: Mapping[str, float]

    @property
    def energy(self) -> float:
        """Energy of its products [J], without static power; NaN where a constant is missing."""
        return sum(self.energies.values())

    @property
    def area(self) -> float:
        """Area of its tiles [m^2]; NaN where a constant is missing."""
        return sum(self.areas.values())


@dataclass(frozen=True)
class DigitalEstimate:
    """The cost of a digital operator in one forward pass.

    Attributes:
        operator: its calls, operations and bytes.
        energy: energy [J]; NaN where a constant is missing.
        time: time [s]; NaN where a constant is missing.
    """

    operator: OperatorCost
    energy: float
    time: float


@dataclass(frozen=True)
class Estimate:
    """What one forward pass costs; the result of [`estimate`][phasegrad.cost.estimate].

    Attributes:
        layers: the analog layers.
        digital: the digital operators.
        samples: samples of the forward pass.
        pipelined: whether stages and layers overlap.
        technology: the constants.
        prices: the constants that each quantity used, and what is missing.
        activity: where the mean drive of the word lines is from.
        energy_is_upper_bound: whether the array's energy, and so the total, is an upper bound, because no activity was
            given.
    """

    layers: tuple[LayerEstimate, ...]
    digital: tuple[DigitalEstimate, ...]
    samples: int
    pipelined: bool
    technology: Technology
    prices: Mapping[str, Prices] = field(repr=False)
    activity: str = ""
    energy_is_upper_bound: bool = False

    @property
    def counts(self) -> Counts:
        """What the tiles of all layers do."""
        total = Counts()
        for layer in self.layers:
            total = total.plus(layer.counts)
        return total

    @property
    def tiles(self) -> int:
        """Tiles of all layers, replicas included."""
        return sum(layer.tiles for layer in self.layers)

    @property
    def devices(self) -> int:
        """Devices that store weights, replicas included."""
        return sum(layer.devices for layer in self.layers)

    @property
    def operations(self) -> float:
        """Operations of tiles and of the global digital unit; a multiplication and its addition are two."""
        return self.counts.operations + sum(part.operator.operations for part in self.digital)

    @property
    def digital_time(self) -> float:
        """Time of the global digital unit [s]."""
        self.prices["latency"].require()
        return sum(part.time for part in self.digital)

    @property
    def serial_latency(self) -> float:
        """Time of the forward pass if one vector and one layer follow another [s]."""
        return sum(layer.duration.serial for layer in self.layers) + self.digital_time

    @property
    def pipelined_latency(self) -> float:
        """Time of the forward pass if stages of successive vectors of a call overlap [s]."""
        return sum(layer.duration.overlapped for layer in self.layers) + self.digital_time

    @property
    def interval(self) -> float:
        """Time from one forward pass to the next if all layers work at the same time, on successive samples [s]."""
        return max([self.digital_time, *(layer.duration.occupied for layer in self.layers)])

    @property
    def latency(self) -> float:
        """Time of the forward pass [s].

        Raises:
            ValueError: a constant is missing.
        """
        return self.pipelined_latency if self.pipelined else self.serial_latency

    @property
    def period(self) -> float:
        """Time from one forward pass to the next [s]: the interval of the pipeline, or the latency without one."""
        return self.interval if self.pipelined else self.latency

    @property
    def energies(self) -> dict[str, float]:
        """Energy of each component [J].

        Raises:
            ValueError: a constant is missing.
        """
        self.prices["energy"].require()
        found = dict.fromkeys(COMPONENTS, 0.0)
        for layer in self.layers:
            for component, energy in layer.energies.items():
                found[component] += energy
        found["digital"] += sum(part.energy for part in self.digital)
        found["static"] = sum(self.static_energy(layer) for layer in self.layers) + self.static_energy(None)
        return found

    def static_energy(self, layer: LayerEstimate | None) -> float:
        """Energy [J] of the static power of a layer's tiles, or of the rest of the chip, in one forward pass."""
        name, count = ("tile_power", layer.tiles) if layer is not None else ("chip_power", 1)
        constant = self.technology.constant(name)
        return 0.0 if constant is None or constant.value == 0 else count * constant.value * self.period

    @property
    def static_power(self) -> float:
        """Static power of tiles and of the rest of the chip [W]; that of unknown constants is 0."""
        found = {name: self.technology.constant(name) for name in ("tile_power", "chip_power")}
        watts = {name: 0.0 if constant is None else constant.value for name, constant in found.items()}
        return self.tiles * watts["tile_power"] + watts["chip_power"]

    @property
    def energy(self) -> float:
        """Energy of the forward pass [J].

        Raises:
            ValueError: a constant is missing.
        """
        return sum(self.energies.values())

    @property
    def areas(self) -> dict[str, float]:
        """Area of each component [m^2].

        Raises:
            ValueError: a constant is missing.
        """
        self.prices["area"].require()
        found = dict.fromkeys((c for c in COMPONENTS if c != "static"), 0.0)
        for layer in self.layers:
            for component, area in layer.areas.items():
                found[component] += area
        constant = self.technology.constant("digital_area")
        found["digital"] += 0.0 if constant is None else constant.value
        return found

    @property
    def area(self) -> float:
        """Area of the chip [m^2].

        Raises:
            ValueError: a constant is missing.
        """
        return sum(self.areas.values())

    @property
    def tops(self) -> float:
        """Operations per second, in 10^12."""
        return ratio(self.operations, self.period) / 1e12

    @property
    def tops_per_watt(self) -> float:
        """Operations per joule, in 10^12."""
        return ratio(self.operations, self.energy) / 1e12

    @property
    def tops_per_mm2(self) -> float:
        """Operations per second and square millimetre, in 10^12."""
        return ratio(self.tops, self.area * 1e6)

    @property
    def samples_per_second(self) -> float:
        """Samples per second."""
        return ratio(self.samples, self.period)

    @property
    def samples_per_joule(self) -> float:
        """Samples per joule."""
        return ratio(self.samples, self.energy)

    @property
    def programming(self) -> Upkeep:
        """Energy and time of programming all devices once.

        Raises:
            ValueError: a constant is missing.
        """
        return self._upkeep(*QUANTITIES[:2])

    @property
    def recalibration(self) -> Upkeep:
        """Energy and time of a calibration read of all tiles, as drift compensation makes it.

        Raises:
            ValueError: a constant is missing.
        """
        return self._upkeep(*QUANTITIES[2:])

    def _upkeep(self, energy: str, time: str) -> Upkeep:
        for quantity in (energy, time):
            self.prices[quantity].require()
        return Upkeep(
            sum(layer.upkeep[energy] for layer in self.layers),
            max(layer.upkeep[time] for layer in self.layers),
        )

    def replicas_for(self, tiles: int) -> dict[str, int]:
        """Replicas of each layer that shorten the interval most, with at most so many tiles in total.

        The tiles of the layer that is occupied longest are duplicated until no more fit, or until the digital unit is
        the slowest stage.

        Args:
            tiles: tiles of the chip.

        Raises:
            ValueError: the net itself needs more tiles, or a constant is missing.
        """
        return tables.balanced_replicas(self, checks.integer("replicas_for", "tiles", tiles, 1))

    def breakdown(self, quantity: str) -> dict[str, dict[str, float]]:
        """The cost of each component by the name of the layer, with ``"(digital unit)"`` and ``"(rest of the chip)"``.

        Args:
            quantity: ``"energy"`` [J], ``"latency"`` [s] or ``"area"`` [m^2].

        Raises:
            ValueError: a constant is missing.
        """
        checks.choice("breakdown", "quantity", quantity, ("energy", "latency", "area"))
        self.prices[quantity].require()
        return tables.breakdown(self, quantity)

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per layer and per digital operator, and one for the rest of the chip, in SI units.

        Energies include the static power, so energies, areas and latencies sum to the totals. NaN where a constant is
        missing.
        """
        return tables.rows(self)

    def __str__(self) -> str:
        return printing.text(self)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write ``rows`` as a table, completely or not at all.

        Raises:
            TypeError: ``path`` is no path.
            OSError: ``path`` is a folder, its folder does not exist, or the file could not be written; an existing
                file is unchanged.
        """
        file = checked_path(path, "to_csv")
        write_whole(file, tables.csv_text(self.rows()))

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The rows, totals, technology and assumptions as JSON, which is also written to ``path`` if it is given.

        Numbers that a missing constant leaves unknown are ``null``.
        """
        content = json.dumps(tables.content(self), indent=1, allow_nan=False)
        if path is not None:
            write_whole(checked_path(path, "to_json"), content)
        return content

    def to_frame(self) -> Any:
        """The rows as a pandas data frame.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")  # an optional dependency
        except ImportError as error:
            raise ImportError(
                "to_frame: data frames need pandas: pip install pandas; rows() returns the same numbers without it"
            ) from error
        return pandas.DataFrame(self.rows())

    def plot(self, path: str | os.PathLike[str] | None = None, *, quantity: str = "energy", **options: Any) -> Any:
        """Draw stacked bars by component; options as for ``phasegrad.plot.cost_breakdown``."""
        from phasegrad.plot import cost_breakdown  # plot is a layer beside, so it is imported only to draw

        return cost_breakdown(self, path, quantity=quantity, **options)
