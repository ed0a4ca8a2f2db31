"""The constants of a technology, each with a unit and a source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, final

from phasegrad.configuration import Configuration, check_choice, check_integer, check_number
from phasegrad.cost.constant import Constant, with_constants
from phasegrad.cost.limits import thermal_conversion_energy


class FieldRule(NamedTuple):
    """Unit of a constant, and the largest value that is not refused as absurd."""

    unit: str
    highest: float


RULES: dict[str, FieldRule] = {
    "read_time": FieldRule("s", 1e-3),
    "setup_time": FieldRule("s", 1e-3),
    "read_voltage": FieldRule("V", 10.0),
    "supply_voltage": FieldRule("V", 10.0),
    "mean_conductance": FieldRule("S", 1e-2),
    "driver_energy": FieldRule("J", 1e-9),
    "adc_energy": FieldRule("J", 1e-9),
    "adc_time": FieldRule("s", 1e-3),
    "tile_energy": FieldRule("J", 1e-6),
    "local_energy": FieldRule("J", 1e-9),
    "local_cycle": FieldRule("s", 1e-3),
    "local_latency": FieldRule("s", 1e-3),
    "link_energy": FieldRule("J/B", 1e-8),
    "link_time": FieldRule("s/B", 1e-3),
    "link_latency": FieldRule("s", 1e-3),
    "digital_energy": FieldRule("J", 1e-8),
    "digital_time": FieldRule("s", 1e-3),
    "memory_energy": FieldRule("J/B", 1e-7),
    "memory_time": FieldRule("s/B", 1e-3),
    "hop_time": FieldRule("s", 1e-3),
    "tile_power": FieldRule("W", 10.0),
    "chip_power": FieldRule("W", 1e4),
    "device_area": FieldRule("m^2", 1e-9),
    "driver_area": FieldRule("m^2", 1e-7),
    "adc_area": FieldRule("m^2", 1e-6),
    "local_area": FieldRule("m^2", 1e-5),
    "link_area": FieldRule("m^2", 1e-5),
    "tile_area": FieldRule("m^2", 1e-5),
    "digital_area": FieldRule("m^2", 1e-2),
    "programming_energy": FieldRule("J", 1e-3),
    "programming_time": FieldRule("s", 1e3),
    "line_pulse_energy": FieldRule("J", 1e-9),
    "pulse_energy": FieldRule("J", 1e-6),
    "pulse_time": FieldRule("s", 1e-2),
}
"""The rule of every constant of a [`Technology`][phasegrad.cost.Technology], by the name of its field."""


@final
@dataclass(frozen=True, kw_only=True)
class Technology(Configuration):
    """What the circuits of a chip cost, in SI units.

    Each constant is a [`Constant`][phasegrad.cost.Constant], or a number without a source.
    A constant that is ``None`` is unknown: an estimate asks for it by name when it needs it. A constant of 0 says that
    something costs nothing, or that another constant includes it; nothing that it is multiplied by is asked for.

    A *tile read* is one phase of one input slice of one tile: word lines driven, bit lines integrated and converted. A
    product of a tile takes ``phases * input slices`` tile reads.

    Args:
        phases: tile reads per product and input slice, such as 4 where each polarity of inputs and of weights is read
            by itself. Hardware whose integrator splits polarities has at least 2 of them anyway.
        input_coding: ``"duration"``: an input is the length of a pulse, and the array's energy grows with ``|x|``;
            ``"amplitude"``: an input is a voltage, and the energy grows with ``x^2``. Hardware with an integrator has
            durations anyway.
        read_time: duration of the array's currents in one tile read [s].
        setup_time: time of a product besides its tile reads [s].
        read_voltage: voltage across a device at the largest input [V].
        supply_voltage: voltage of the supply that provides the array's current [V]; ``None`` for ``read_voltage``, that
            is, a supply without losses.
        mean_conductance: mean over all devices [S], for weights without values, as on the meta device.
        driver_energy: energy of a word line's driver, DAC or pulse generator, per driven line and tile read [J].
        adc_energy: energy per conversion at ``adc_bits`` [J].
        adc_time: time of a conversion that is not within ``read_time`` [s]; columns that share a converter are
            converted one after another.
        adc_bits: resolution that ``adc_energy``, ``adc_time`` and ``adc_area`` refer to; ``None`` for that of the
            hardware.
        adc_scaling: how energy and time of a conversion change with the resolution: ``"bits"``: proportional to the
            bits (successive approximation); ``"codes"``: to the number of codes (ramps, counters, and converters of
            equal figure of merit); ``"thermal"``: to its square (limited by noise); ``None``: unknown.
        tile_energy: energy of a tile read that the other constants do not contain, whatever lines are used [J].
        local_energy: energy of the local digital unit per result of a converter [J].
        local_cycle: time of the local digital unit per output [s].
        local_lanes: outputs of a tile that its local digital unit processes at a time.
        local_latency: time of the local digital unit per product besides its cycles [s].
        link_energy: energy of moving a byte to or from a tile [J/B].
        link_time: time of a byte on the link of a tile [s/B].
        link_latency: time of a transfer besides its bytes, once per product [s].
        digital_energy: energy of an operation of the global digital unit [J].
        digital_time: time of an operation of the global digital unit [s].
        memory_energy: energy of a byte that the global digital unit reads or writes [J/B].
        memory_time: time of a byte that it reads or writes [s/B].
        partial_sums: where the results of row tiles are added: ``"global"``: in the global digital unit; ``"local"``:
            along a chain of local digital units, one chain per column tile.
        hop_time: time that each row tile beyond the first adds to such a chain [s].
        tile_power: static power of a tile [W].
        chip_power: static power of the rest of the chip [W].
        device_area: area of a device with its selector [m^2].
        driver_area: area of the driver of a word line [m^2].
        adc_area: area of a converter [m^2].
        local_area: area of the local digital unit of a tile [m^2].
        link_area: area of the links of a tile [m^2].
        tile_area: area of a tile that the other constants do not contain [m^2].
        digital_area: area of the global digital unit and of the rest of the chip [m^2].
        programming_energy: energy of programming a device, with all iterations and reads [J].
        programming_time: time of programming devices of a tile that are programmed together [s].
        programmed_together: devices of a tile that are programmed together.
        line_pulse_energy: energy of a pulse on a line in an update of training in the memory [J].
        pulse_energy: energy of a coincidence that pulses a device [J].
        pulse_time: time of a slot of a pulse train [s].
        temperature: temperature of the thermal limit [K].
        highest_energy: energy of an operation of a fully used tile above which an estimate is refused as absurd [J].

    Raises:
        ValueError: a constant is negative, above what is plausible, or below the thermal limit; the message names it.
    """

    phases: int = 1
    input_coding: str = "duration"
    read_time: Constant | float | None = None
    setup_time: Constant | float | None = None
    read_voltage: Constant | float | None = None
    supply_voltage: Constant | float | None = None
    mean_conductance: Constant | float | None = None
    driver_energy: Constant | float | None = None
    adc_energy: Constant | float | None = None
    adc_time: Constant | float | None = None
    adc_bits: int | None = None
    adc_scaling: str | None = None
    tile_energy: Constant | float | None = None
    local_energy: Constant | float | None = None
    local_cycle: Constant | float | None = None
    local_lanes: int = 1
    local_latency: Constant | float | None = None
    link_energy: Constant | float | None = None
    link_time: Constant | float | None = None
    link_latency: Constant | float | None = None
    digital_energy: Constant | float | None = None
    digital_time: Constant | float | None = None
    memory_energy: Constant | float | None = None
    memory_time: Constant | float | None = None
    partial_sums: str = "global"
    hop_time: Constant | float | None = None
    tile_power: Constant | float | None = None
    chip_power: Constant | float | None = None
    device_area: Constant | float | None = None
    driver_area: Constant | float | None = None
    adc_area: Constant | float | None = None
    local_area: Constant | float | None = None
    link_area: Constant | float | None = None
    tile_area: Constant | float | None = None
    digital_area: Constant | float | None = None
    programming_energy: Constant | float | None = None
    programming_time: Constant | float | None = None
    programmed_together: int = 1
    line_pulse_energy: Constant | float | None = None
    pulse_energy: Constant | float | None = None
    pulse_time: Constant | float | None = None
    temperature: float = 300.0
    highest_energy: float = 1e-9

    @classmethod
    def _values_given(cls, fields: dict[str, Any]) -> dict[str, Any]:
        return with_constants(cls.__name__, fields, RULES)

    def __post_init__(self) -> None:
        check_integer(self, "phases", 1, 64)
        check_choice(self, "input_coding", ("duration", "amplitude"))
        check_choice(self, "partial_sums", ("global", "local"))
        check_integer(self, "local_lanes", 1, 1 << 20)
        check_integer(self, "programmed_together", 1, 1 << 40)
        check_number(self, "temperature", 0.0, above=True)
        check_number(self, "highest_energy", 0.0, above=True)
        if self.adc_bits is not None:
            check_integer(self, "adc_bits", 2, 16)
        if self.adc_scaling is not None:
            check_choice(self, "adc_scaling", ("bits", "codes", "thermal"))
        for name, rule in RULES.items():
            self._check_constant(name, rule)
        self._check_thermal_limit()

    def constant(self, name: str) -> Constant | None:
        """The constant of a field; ``None`` if it is unknown."""
        return getattr(self, name)

    @property
    def constants(self) -> dict[str, Constant]:
        """All known constants by the name of their field."""
        found = {name: self.constant(name) for name in RULES}
        return {name: constant for name, constant in found.items() if constant is not None}

    def _check_constant(self, name: str, rule: FieldRule) -> None:
        constant = self.constant(name)
        if constant is None:
            return
        if not 0 <= constant.value <= rule.highest:
            raise ValueError(
                f"Technology: {name} = {constant.value:g} {rule.unit} ({constant.source}); it must not be "
                f"negative, and at most {rule.highest:g} {rule.unit}: check its unit"
            )

    def _check_thermal_limit(self) -> None:
        energy = self.constant("adc_energy")
        if energy is None or energy.value == 0 or self.adc_bits is None:
            return
        limit = thermal_conversion_energy(self.adc_bits, self.temperature)
        if energy.value < limit:
            raise ValueError(
                f"Technology: adc_energy = {energy.value:g} J ({energy.source}) at adc_bits = {self.adc_bits}; thermal "
                f"noise at {self.temperature:g} K limits a conversion to at least {limit:.2g} J: check its unit"
            )
