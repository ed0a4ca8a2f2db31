"""Training in the memory: forward and backward products, updates by pulses, and transfers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from phasegrad import argument_checks as checks
from phasegrad.cost.activity import Activity, as_activity
from phasegrad.cost.conductance import conductance
from phasegrad.cost.counting import Counts, Geometry, geometry, phases_of
from phasegrad.cost.energy import Drive, tile_energies
from phasegrad.cost.estimation import priced
from phasegrad.cost.latency import duration, stages
from phasegrad.cost.prices import Prices, missing_constant
from phasegrad.cost.printing import MISSING, aligned, listed_assumptions, total, wrapped
from phasegrad.cost.report import Estimate, ratio
from phasegrad.cost.shadow import Call
from phasegrad.cost.technology import Technology
from phasegrad.cost.tracing import Trace, Tracer, samples
from phasegrad.nn import AnalogLayer


@dataclass(frozen=True)
class TrainingPart:
    """One part of a training step.

    Attributes:
        name: ``"backward"``, ``"update"`` or ``"transfer"``.
        counts: what the tiles do in products.
        pulses: pulses on lines in updates.
        coincidences: pulses that change a device, on average.
        prices: the constants that energy and time used, and what is missing.
    """

    name: str
    counts: Counts
    pulses: float
    coincidences: float
    prices: Mapping[str, Prices]
    _energy: float
    _time: float

    @property
    def energy(self) -> float:
        """Energy [J].

        Raises:
            ValueError: a constant is missing.
        """
        self.prices["energy"].require()
        return self._energy

    @property
    def time(self) -> float:
        """Time, layer after layer [s].

        Raises:
            ValueError: a constant is missing.
        """
        self.prices["latency"].require()
        return self._time


@dataclass(frozen=True)
class TrainingEstimate:
    """What a step of training in the memory costs.

    The result of [`estimate_training`][phasegrad.cost.estimate_training].

    Attributes:
        forward: the forward pass, with all digital operators of the step, those of the backward pass included.
        backward: products of the backward pass, of tiles that are driven from their columns.
        update: pulses on the devices.
        transfer: the share of a step in closed-loop transfers between two arrays.
        samples: samples of the step.
        assumptions: what the estimate assumes besides that of ``forward``.
    """

    forward: Estimate
    backward: TrainingPart
    update: TrainingPart
    transfer: TrainingPart
    samples: int
    assumptions: tuple[str, ...]

    @property
    def parts(self) -> tuple[TrainingPart, ...]:
        """The parts besides the forward pass."""
        return self.backward, self.update, self.transfer

    @property
    def energy(self) -> float:
        """Energy of a step [J]. The static power of the chip counts for the whole step.

        Raises:
            ValueError: a constant is missing.
        """
        return self.forward.energy + sum(part.energy for part in self.parts) + self.static_energy

    @property
    def static_energy(self) -> float:
        """Energy [J] of the static power during the parts besides the forward pass, whose energy includes its own.

        Raises:
            ValueError: a constant is missing.
        """
        return self.forward.static_power * sum(part.time for part in self.parts)

    @property
    def time(self) -> float:
        """Time of a step [s].

        Raises:
            ValueError: a constant is missing.
        """
        return self.forward.period + sum(part.time for part in self.parts)

    @property
    def samples_per_second(self) -> float:
        """Samples per second."""
        return ratio(self.samples, self.time)

    @property
    def samples_per_joule(self) -> float:
        """Samples per joule."""
        return ratio(self.samples, self.energy)

    def __str__(self) -> str:
        if not self.forward.technology.constants:
            return "\n".join(["forward pass:", str(self.forward)])
        rows = [("forward", total(self.forward, "period", "s"), total(self.forward, "energy", "J"))]
        rows += [(part.name, total(part, "time", "s"), total(part, "energy", "J")) for part in self.parts]
        rows.append(("static power, besides", "", total(self, "static_energy", "J")))
        whole = ("step", total(self, "time", "s"), total(self, "energy", "J"))
        energy = "energy, at most" if self.forward.energy_is_upper_bound else "energy"
        lines = aligned([("part", "time", energy), *rows, whole], ("<", ">", ">"))
        return "\n".join([*lines, *self._missing(), *listed_assumptions(self.assumptions)])

    def _missing(self) -> list[str]:
        """The constants that are missing, by what needs them."""
        found = [("forward", self.forward.prices), *((part.name, part.prices) for part in self.parts)]
        lines = [
            f"{name} {quantity}: {', '.join(map(missing_constant, prices[quantity].missing))}"
            for name, prices in found
            for quantity in ("energy", "latency")
            if prices[quantity].missing
        ]
        return ["", MISSING, *(part for line in lines for part in wrapped(line))] if lines else []


def estimate_training(
    net: nn.Module,
    example_input: Any,
    *,
    technology: Technology | None = None,
    activity: Activity | float | None = None,
    firing: float | None = None,
) -> TrainingEstimate:
    """Estimate what one step of training in the memory costs.

    The forward and the backward pass are traced without values, in training mode.

    Args:
        net: a net that was converted with hardware for training, which has ``pulses``.
        example_input: an input of the net; see [`estimate`][phasegrad.cost.estimate], also for the next two.
        technology: the constants.
        activity: mean drive of the lines, in forward and backward products; ``None`` for the upper bound.
        firing: mean probability that a line fires in a slot of a pulse train, in [0, 1]; two lines fire independently.

    Raises:
        ValueError: the net has no trainable weight in the memory, refuses the input, or chooses what to compute by the
            values of tensors.
    """
    caller, technology = "estimate_training", Technology() if technology is None else technology
    tracer = Tracer(net, caller)
    if not any(layer.hardware.pulses is not None for layer in tracer.layers.values()):
        raise ValueError(f"{caller}: no layer has hardware with pulses; convert the net with a preset for training")
    found = tracer.run(example_input, backward=True)
    known = as_activity(caller, activity, found.layers)
    forward = priced(
        found,
        samples(example_input, caller),
        technology=technology,
        activity=known,
        replicas={},
        pipelined=False,
        conductances={name: conductance(layer) for name, layer in found.layers.items()},
    )
    probability = None if firing is None else checks.number(caller, "firing", firing, 0.0, 1.0)
    return TrainingEstimate(
        forward=forward,
        backward=_backward(found, forward, known, technology),
        update=_update(found, technology, probability),
        transfer=_transfer(found, technology),
        samples=forward.samples,
        assumptions=_assumptions(found, firing),
    )


def _prices(technology: Technology) -> dict[str, Prices]:
    return {quantity: Prices(technology, quantity) for quantity in ("energy", "latency")}


def transposed(layer: AnalogLayer) -> Geometry:
    """The geometry of a layer whose tiles are driven from their columns."""
    place = geometry(layer)
    groups = max(1, round(layer.tiles / (place.row_tiles * -(-layer.out_features // layer.columns))))
    return place._replace(
        row_tiles=place.column_tiles // groups,
        column_tiles=place.row_tiles * groups,
        inputs=layer.out_features // groups,
        rows=place.columns,
        columns=place.rows,
    )


def _backward(found: Trace, forward: Estimate, activity: Activity, technology: Technology) -> TrainingPart:
    """Each product drives the columns and converts the rows: the same tiles, with rows and columns exchanged."""
    prices, counts, energy, time = _prices(technology), Counts(), 0.0, 0.0
    for layer_estimate in forward.layers:
        name, layer = layer_estimate.name, found.layers[layer_estimate.name]
        calls = [call for call in found.transposed if call.layer == name]
        if not calls:
            continue
        place, shown, hardware = transposed(layer), name or "(root)", layer.hardware.transposed
        of_layer = _transposed_counts(layer, calls, place, phases_of(hardware, technology))
        if technology.partial_sums == "local":
            of_layer = of_layer._replace(additions=0)
        mean = activity.of(name, hardware, technology.input_coding)
        reads = sum(c.vectors for c in calls) * place.drives
        drive = Drive(layer.device_count, layer_estimate.conductance, mean, reads)
        energy += sum(tile_energies(shown, hardware, of_layer, drive, prices["energy"]).values())
        vector = stages(shown, hardware, place, calls[0].value_bytes, prices["latency"])
        time += duration(calls, vector, 1).serial + prices["latency"].cost(of_layer.additions, shown, "digital_time")
        counts = counts.plus(of_layer)
    return TrainingPart("backward", counts, 0.0, 0.0, prices, energy, time)


def _transposed_counts(layer: AnalogLayer, calls: Sequence[Call], place: Geometry, phases: int) -> Counts:
    n, forward = sum(call.vectors for call in calls), geometry(layer)
    driven, converted = layer.out_features * forward.row_tiles, layer.in_features * forward.column_tiles
    results, reads = n * converted * place.slices * place.conversions, place.drives * phases
    widths = [calls[0].value_bytes if bits is None else bits / 8 for bits in (place.input_bits, place.output_bits)]
    return Counts(
        vectors=n,
        multiplications=n * layer.in_features * layer.out_features,
        products=n * layer.tiles,
        tile_reads=n * layer.tiles * reads,
        drives=n * driven * reads,
        conversions=0 if layer.hardware.adc is None else results * phases,
        results=results,
        additions=n * layer.in_features * (forward.column_tiles - place.column_tiles // forward.row_tiles),
        bytes_in=n * driven * widths[0],
        bytes_out=n * converted * widths[1],
    )


def _update(found: Trace, technology: Technology, firing: float | None) -> TrainingPart:
    """Pulse trains on all lines of a tile, for each vector after the other."""
    prices = _prices(technology)
    pulses = coincidences = energy = time = 0.0
    for call in found.updates:
        layer, name = found.layers[call.layer], call.layer or "(root)"
        rule = layer.hardware.pulses
        if rule is None:
            continue
        slots, place = call.vectors * rule.length, geometry(layer)
        time += prices["latency"].cost(slots, name, "pulse_time")
        lines = place.inputs * place.column_tiles + layer.out_features * place.row_tiles
        probability = prices["energy"].lacks("firing", name) if firing is None else firing
        pulses += slots * lines * probability
        coincidences += slots * place.inputs * layer.out_features * probability**2
        energy += prices["energy"].cost(slots * lines * probability, name, "line_pulse_energy")
        cells = slots * place.inputs * layer.out_features * probability**2
        energy += prices["energy"].cost(cells, name, "pulse_energy")
    return TrainingPart("update", Counts(), pulses, coincidences, prices, energy, time)


def _transfer(found: Trace, technology: Technology) -> TrainingPart:
    """All slow devices are programmed again, every so many vectors."""
    prices, energy, time = _prices(technology), 0.0, 0.0
    for call in found.updates:
        layer, name = found.layers[call.layer], call.layer or "(root)"
        fast = layer.hardware.fast
        if fast is None or fast.transfer is None:
            continue
        share, place = call.vectors / fast.transfer.every, geometry(layer)
        slow = layer.in_features * layer.out_features * len(layer.hardware.cell.factors)
        energy += prices["energy"].cost(share * slow, name, "programming_energy")
        fullest = place.rows * place.columns * len(layer.hardware.cell.factors)
        groups = -(-fullest // technology.programmed_together)
        time += prices["latency"].cost(share * groups, name, "programming_time")
    return TrainingPart("transfer", Counts(), 0.0, 0.0, prices, energy, time)


def _assumptions(found: Trace, firing: float | None) -> tuple[str, ...]:
    lines = [
        "every pulse train has its full length, and successive vectors are updated one after another",
        "updates of biases and other digital parameters are not counted",
    ]
    if firing is not None:
        lines.append(f"the probability that a line fires is an average, given: {firing:g} for all lines")
    hardware = [layer.hardware for layer in found.layers.values()]
    if any(h.fast is not None and h.fast.transfer is None for h in hardware):
        lines.append("transfers that an optimizer makes are not counted")
    if any(cell.refresh_every for h in hardware for cell in h.cells):
        lines.append("rewrites of saturated cells are not counted")
    return tuple(lines)
