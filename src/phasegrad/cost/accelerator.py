"""The same model on a digital accelerator, by its roofline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from phasegrad import argument_checks as checks
from phasegrad.configuration import Configuration, check_integer
from phasegrad.cost.constant import Constant, with_constants
from phasegrad.cost.printing import NO_TECHNOLOGY, aligned, engineering, listed_assumptions, total, wrapped
from phasegrad.cost.report import Estimate, LayerEstimate, ratio
from phasegrad.cost.tables import known

_UNITS = {"throughput": "op/s", "efficiency": "op/J", "bandwidth": "B/s", "byte_energy": "J/B"}


@final
@dataclass(frozen=True, kw_only=True)
class Accelerator(Configuration):
    """A digital accelerator, given by its peak figures. SI units; each figure is a `Constant`, or a number.

    Args:
        throughput: operations per second; a multiplication and its addition are two.
        efficiency: operations per joule of its arithmetic, without external memory: 1 TOPS/W is 1e12.
        bandwidth: bytes per second between external memory and the accelerator.
        byte_energy: energy of moving such a byte [J].
        on_chip: bytes of memory on the chip for weights; if all weights of the net fit, they are not moved.
        weight_bits: bits of a weight.
        activation_bits: bits of an activation.

    Raises:
        ValueError: a figure is not above 0 (``byte_energy`` may be 0).

    Examples:
        >>> gpu = Accelerator(throughput=1e14, efficiency=1e12, bandwidth=1e12, byte_energy=4e-12)
        >>> gpu.value("throughput")
        100000000000000.0
    """

    throughput: Constant | float
    efficiency: Constant | float
    bandwidth: Constant | float
    byte_energy: Constant | float
    on_chip: int = 0
    weight_bits: int = 8
    activation_bits: int = 8

    @classmethod
    def _values_given(cls, fields: dict[str, Any]) -> dict[str, Any]:
        return with_constants(cls.__name__, fields, _UNITS)

    def __post_init__(self) -> None:
        for name, unit in _UNITS.items():
            value = self.value(name)
            if value < 0 or (value == 0 and name != "byte_energy"):
                raise ValueError(f"Accelerator: {name} = {value:g} {unit}; it must be above 0")
        check_integer(self, "on_chip", 0, 1 << 60)
        check_integer(self, "weight_bits", 1, 64)
        check_integer(self, "activation_bits", 1, 64)

    def constant(self, name: str) -> Constant:
        """The figure of a field, with its source."""
        return getattr(self, name)

    def value(self, name: str) -> float:
        """The figure of a field."""
        return self.constant(name).value


@dataclass(frozen=True)
class DigitalPart:
    """One layer or operator on the accelerator.

    Attributes:
        name: its name.
        operations: its operations.
        bytes: bytes of weights and activations that it moves.
        time: the longer of computing and moving [s].
        bound: ``"compute"`` or ``"memory"``, which of the two that is.
        energy: energy of both [J].
    """

    name: str
    operations: float
    bytes: float
    time: float
    bound: str
    energy: float


@dataclass(frozen=True)
class Comparison:
    """A net on analog tiles and on a digital accelerator; the result of [`compare`][phasegrad.cost.compare].

    Attributes:
        analog: the estimate of the tiles.
        accelerator: the accelerator.
        parts: the layers and digital operators on the accelerator.
        weights_on_chip: whether all weights fit its memory on the chip.
    """

    analog: Estimate
    accelerator: Accelerator
    parts: tuple[DigitalPart, ...]
    weights_on_chip: bool

    @property
    def latency(self) -> float:
        """Time of the forward pass on the accelerator [s]."""
        return sum(part.time for part in self.parts)

    @property
    def energy(self) -> float:
        """Energy of the forward pass on the accelerator [J]."""
        return sum(part.energy for part in self.parts)

    @property
    def speedup(self) -> float:
        """Time on the accelerator over that on tiles, from one forward pass to the next."""
        return ratio(self.latency, self.analog.period)

    @property
    def energy_ratio(self) -> float:
        """Energy on the accelerator over that on tiles."""
        return ratio(self.energy, self.analog.energy)

    def __str__(self) -> str:
        head = ("layer", "operations", "bytes", "time", "bound by", "energy")
        body = [
            (p.name, f"{p.operations:,.0f}", f"{p.bytes:,.0f}", engineering(p.time, "s"), p.bound,
             engineering(p.energy, "J")) for p in self.parts
        ]  # fmt: skip
        operations, moved = sum(p.operations for p in self.parts), sum(p.bytes for p in self.parts)
        whole = ("accelerator", f"{operations:,.0f}", f"{moved:,.0f}", engineering(self.latency, "s"), "",
                 engineering(self.energy, "J"))  # fmt: skip
        lines = aligned([head, *body, whole], ("<", ">", ">", ">", "<", ">"))
        return "\n".join([*lines, *self._against_tiles(), *listed_assumptions(self.assumptions)])

    def _against_tiles(self) -> list[str]:
        """The tiles against the accelerator, in what is known of them."""
        if not self.analog.technology.constants:
            return wrapped(f"analog tiles: only counted. {NO_TECHNOLOGY}", 0, 0)
        most = "at most " if self.analog.energy_is_upper_bound else ""
        found = []
        speed, energy = known(self, "speedup"), known(self, "energy_ratio")
        if speed is not None:
            found.append(f"{speed:.3g} times the speed")
        if energy:
            found.append(f"{most}{1 / energy:.3g} times the energy")
        costs = f"analog tiles: {total(self.analog, 'period', 's')}, {most}{total(self.analog, 'energy', 'J')}"
        return wrapped(f"{costs}; {' and '.join(found)} of the accelerator" if found else costs, 0)

    @property
    def assumptions(self) -> list[str]:
        """What the comparison assumes."""
        chip = self.accelerator
        figures = [
            f"{name} = {chip.value(name):.4g} {unit} ({chip.constant(name).source})" for name, unit in _UNITS.items()
        ]
        weights = (
            "all weights stay in its memory"
            if self.weights_on_chip
            else "the weights of a layer are moved once per call, for all of its vectors"
        )
        return [
            *figures,
            f"{chip.weight_bits} bits per weight, {chip.activation_bits} per activation",
            f"{weights}; activations are moved once from and once to external memory",
            "layers follow each other, each at the peak throughput or the full bandwidth, whichever takes longer",
        ]


def compare(estimate: Estimate, accelerator: Accelerator) -> Comparison:
    """Compare an estimate with the same forward pass on a digital accelerator.

    Args:
        estimate: the estimate of the tiles.
        accelerator: the accelerator.

    Returns:
        A [`Comparison`][phasegrad.cost.Comparison]; ``print`` shows it with its assumptions.

    Raises:
        TypeError: an argument has another type.
    """
    checks.instance("compare", "estimate", estimate, Estimate)
    checks.instance("compare", "accelerator", accelerator, Accelerator)
    weights = sum(layer.out_features * layer.in_features for layer in estimate.layers)
    fits = weights * accelerator.weight_bits / 8 <= accelerator.on_chip
    parts = [_layer(layer, accelerator, fits) for layer in estimate.layers if layer.calls]
    for part in estimate.digital:
        operator = part.operator
        moved = operator.values * accelerator.activation_bits / 8
        if operator.values or operator.operations:
            parts.append(_part(operator.name, operator.operations, moved, accelerator))
    return Comparison(estimate, accelerator, tuple(parts), fits)


def _layer(layer: LayerEstimate, accelerator: Accelerator, on_chip: bool) -> DigitalPart:
    """A layer whose calls follow each other."""
    weight = 0.0 if on_chip else layer.out_features * layer.in_features * accelerator.weight_bits / 8
    parts = []
    for call in layer.calls:
        share = (call.outputs[1] - call.outputs[0]) / layer.out_features
        looked_up = layer.counts.multiplications == 0
        operations = 0.0 if looked_up else 2.0 * call.vectors * layer.out_features * share * layer.in_features
        read = call.vectors * layer.in_features * accelerator.weight_bits / 8 if looked_up else weight * share
        parts.append(_part("", operations, read + call.values * accelerator.activation_bits / 8, accelerator))
    bound = max(("compute", "memory"), key=lambda b: sum(p.time for p in parts if p.bound == b))
    sums = {name: sum(getattr(part, name) for part in parts) for name in ("operations", "bytes", "time", "energy")}
    return DigitalPart(name=layer.name or "(root)", bound=bound, **sums)


def _part(name: str, operations: float, moved: float, accelerator: Accelerator) -> DigitalPart:
    computing, moving = operations / accelerator.value("throughput"), moved / accelerator.value("bandwidth")
    energy = operations / accelerator.value("efficiency") + moved * accelerator.value("byte_energy")
    bound = "compute" if computing >= moving else "memory"
    return DigitalPart(name, operations, moved, max(computing, moving), bound, energy)
