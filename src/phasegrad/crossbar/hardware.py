"""The analog hardware that a layer runs on."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from phasegrad.cells import Cell
from phasegrad.configuration import (
    Configuration,
    check_choice,
    check_integer,
    check_number,
    check_type,
    from_json,
)
from phasegrad.crossbar.converters import InputConverter, LearnedRange, OutputConverter
from phasegrad.crossbar.duration import Integrator
from phasegrad.crossbar.fast import Fast
from phasegrad.crossbar.pulses import Pulses
from phasegrad.crossbar.wires import DurationCodedDrop, Wires
from phasegrad.devices import Faults
from phasegrad.ops import reference


@final
@dataclass(frozen=True, kw_only=True)
class Hardware(Configuration):
    """Cells, tiles and peripheral circuits. Immutable; a layer keeps the hardware with which it was created.

    Args:
        cell: unit cell, which represents one weight by devices.
        rows: word lines (inputs) per tile.
        columns: bit lines (outputs) per tile.
        scale: ``"column"``: each column of each tile has its own digital scale, so that its largest weight uses the
            whole conductance window; ``"tile"``: one scale per tile; a number: the weight of a cell at its maximum,
            the same everywhere, as training in the memory requires.
        dac: converter of the inputs; ``None`` for exact inputs.
        adc: converter of the outputs; ``None`` for exact outputs.
        output_noise: standard deviation of the noise of each output, in units of ``max|w| max|x|``.
        read_noise: ``sigma_w`` of short-term weight noise referred to the output,
            ``sigma_w sqrt(sum_j |w_ij| x_j^2)`` in normalised units. It represents the devices while the weights are
            digital; programmed devices replace it with their own read noise, unless their reads are noiseless.
        pulses: pulse trains that train the weights in the memory; ``None`` for weights that are trained digitally.
        fast: second array of cells, which receives the updates of training in the memory first; ``None`` to update
            ``cell`` directly.
        wires: resistance of word and bit lines, or the approximate formula for duration-coded inputs; ``None`` for
            ideal wires, which training in the memory requires.
        integrator: capacitors of the columns, for inputs coded as pulse durations; ``None`` for amplitudes.
        faults: rates of stuck devices and dead lines, drawn for every chip and for training in the memory; ``None`` for
            devices that all work. Weights that are trained digitally do not see them.

    Raises:
        ValueError: the value of a field is not possible; the message names the field.
        TypeError: a field has a wrong type; the message names the field.
    """

    cell: Cell
    rows: int = 512
    columns: int = 512
    scale: str | float = "column"
    dac: InputConverter | None = None
    adc: OutputConverter | None = None
    output_noise: float = 0.0
    read_noise: float = 0.0
    pulses: Pulses | None = None
    fast: Fast | None = None
    wires: Wires | DurationCodedDrop | None = None
    integrator: Integrator | None = None
    faults: Faults | None = None

    _renamed: ClassVar[dict[str, str]] = {"update": "pulses", "drop": "ir_drop", "turned": "transposed"}

    # Derived when the hardware is made; class variables, since they are no fields.
    linear_wires: ClassVar[Wires | None]
    """Wires that are part of the matrix, or ``None``."""
    ir_drop: ClassVar[DurationCodedDrop | None]
    """The formula for wires whose effect depends on the inputs, or ``None``."""
    exact: ClassVar[bool]
    """Whether the periphery is exact, without converters, integrator and noise."""
    slice_factors: ClassVar[tuple[float, ...] | None]
    """Digital significance of each bit slice of a weight; ``None`` for cells without slices."""
    dac_settings: ClassVar[tuple[float, float, float]]
    """Largest code, decay and keep of the DAC, as the ops expect them; a largest code of 0 means no DAC."""
    adc_settings: ClassVar[tuple[int, float]]
    """Mode and largest code of the ADC, as the ops expect them."""
    unfused_adc: ClassVar[OutputConverter | None]
    """The ADC, if the kernels do not implement it; ``None`` otherwise."""
    fuses_outputs: ClassVar[bool]
    """Whether one op can compute a matrix product and its output conversion."""
    fuses_inputs: ClassVar[bool]
    """Whether the same op can convert the inputs too."""

    def __post_init__(self) -> None:
        check_type(self, "cell", Cell)
        check_integer(self, "rows", 1, 1 << 20)
        check_integer(self, "columns", 1, 1 << 20)
        check_type(self, "pulses", (Pulses, type(None)))
        check_type(self, "fast", (Fast, type(None)))
        check_type(self, "dac", (InputConverter, type(None)))
        check_type(self, "adc", (OutputConverter, type(None)))
        if self.adc is not None and self.adc.columns_per_converter > self.columns:
            raise ValueError(
                f"Hardware: columns = {self.columns} of a tile, but {type(self.adc).__name__}: columns_per_converter = "
                f"{self.adc.columns_per_converter}; a converter serves columns of one tile: give at most columns"
            )
        check_type(self, "wires", (Wires, DurationCodedDrop, type(None)))
        if self.wires is not None and self.cell.has_reference:
            raise ValueError(
                f"Hardware: wires = {self.wires} with cell = {type(self.cell).__name__}; wires of a reference column "
                "are not modelled: use DifferentialSlices, or wires=None"
            )
        check_type(self, "integrator", (Integrator, type(None)))
        check_type(self, "faults", (Faults, type(None)))
        self._derive()
        self._check_integrator()
        if self.pulses is None:
            check_choice(self, "scale", ("column", "tile"))
            if self.fast is not None:
                raise ValueError(
                    "Hardware: fast is given without pulses; fast cells are updated by pulses: add pulses=Pulses()"
                )
        else:
            self._check_training()
        check_number(self, "output_noise", 0.0)
        check_number(self, "read_noise", 0.0)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All unit cells of a weight."""
        return (self.cell,) if self.fast is None else (self.cell, self.fast.cell)

    @property
    def learned_ranges(self) -> dict[str, float]:
        """The start values of the converter ranges that are parameters of a layer, by name."""
        kinds = {"input_range": self.dac and self.dac.range, "output_range": self.adc and self.adc.range}
        return {name: kind.start for name, kind in kinds.items() if isinstance(kind, LearnedRange)}

    def _derive(self) -> None:
        """Set the attributes that forward passes read, once per hardware: compilers trace them as constants."""
        exact_ends = self.dac is None and self.adc is None and self.integrator is None
        no_adc = (reference.NO_CONVERTER, 1.0)
        learned = self.dac.range if self.dac else None
        decay, keep = (learned.decay, learned.keep) if isinstance(learned, LearnedRange) else (0.0, 1.0)
        derived = {
            "linear_wires": self.wires if isinstance(self.wires, Wires) else None,
            "ir_drop": self.wires if isinstance(self.wires, DurationCodedDrop) else None,
            "exact": exact_ends and self.output_noise == 0 and self.read_noise == 0,
            "slice_factors": self.cell.slice_factors,
            "dac_settings": (self.dac.max_code, decay, keep) if self.dac else (0.0, 0.0, 1.0),
            "adc_settings": (self.adc.mode, self.adc.max_code) if self.adc else no_adc,
        }
        derived["unfused_adc"] = self.adc if derived["adc_settings"][0] == reference.NO_CONVERTER else None
        unfused = derived["ir_drop"], self.integrator, derived["unfused_adc"]
        derived["fuses_outputs"] = all(part is None for part in unfused)
        derived["fuses_inputs"] = derived["fuses_outputs"] and (self.dac is None or self.dac.fused)
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @functools.cached_property
    def transposed(self) -> Hardware:
        """The same tiles driven from their outputs, with rows and columns exchanged."""
        return dataclasses.replace(self, rows=self.columns, columns=self.rows)

    def _check_integrator(self) -> None:
        if self.integrator is None:
            return
        if (self.dac is None) == (self.integrator.full_input is None):
            raise ValueError(
                f"Hardware: dac = {self.dac} and integrator.full_input = {self.integrator.full_input}; exactly "
                "one of them must define the input that drives a line for the whole window: the range of the DAC, or "
                "full_input"
            )
        named = {
            "wires": self.ir_drop is not None,
            "dac": self.dac is not None and not self.dac.at_once,
            "pulses": self.pulses is not None,
        }
        for field, other in named.items():
            if other:
                raise ValueError(
                    f"Hardware: integrator is given with {field} = {getattr(self, field)}; its effect on inputs "
                    "that are pulse durations is not modelled: leave out one of the two, or use Wires for wires and a "
                    "Dac for dac"
                )

    def _check_training(self) -> None:
        if isinstance(self.scale, str):
            raise ValueError(
                f"Hardware: scale = {self.scale!r} with pulses; give a number, the weight of a cell at "
                "its maximum, because trained weights can exceed a scale derived from their initial values"
            )
        check_number(self, "scale", 0.0, above=True)
        if self.wires is not None:
            raise ValueError(
                f"Hardware: wires = {self.wires} with pulses; training in the memory requires ideal "
                "wires. Train with wires=None, then evaluate the effect of wires on the trained weights with "
                "pg.convert(pg.to_digital(net), hardware), where hardware has wires and pulses=None"
            )
        for cell in self.cells:
            _check_pulsed(cell)
        if self.adc is not None and self.adc.mode == reference.NO_CONVERTER:
            raise ValueError(
                f"Hardware: adc = {type(self.adc).__name__} with pulses; gradients in the memory pass "
                "through converters without stored errors: use an Adc without errors, or pulses=None"
            )
        if self.dac is not None and not self.dac.trains_in_memory:
            raise ValueError(
                f"Hardware: dac = {type(self.dac).__name__} with errors, or bit by bit, and pulses; "
                "gradients in the memory pass through the same converters: use a Dac without errors, or pulses=None"
            )


def _check_pulsed(cell: Cell) -> None:
    if cell.slice_factors is not None:
        raise ValueError(
            f"Hardware: cell = {type(cell).__name__} with pulses; pulses cannot train slices, because "
            "they cannot carry from one slice to the next: use a DifferentialPair, or pulses=None"
        )
    steps = cell.device.steps
    if steps is None:
        raise ValueError("Hardware: pulses are given, but cell.device.steps = None; add a step law to the device")
    refused = (*cell.device.stateful_fields, *(("g_min",) if cell.device.lowest else ()))
    if refused:
        raise ValueError(
            f"Hardware: pulses are given, but the cell's device has {', '.join(refused)}, which only devices that are "
            "not pulsed support; train with dataclasses.replace(device, ...) without it"
        )
    up, down = cell.pulsed(0)
    if up == down and not steps.two_sided:
        raise ValueError(
            f"Hardware: {type(steps).__name__} only raises a conductance, but {type(cell).__name__} must also lower "
            "it; use a DifferentialPair"
        )


def to_tensor(configuration: Configuration) -> Tensor:
    """Encode a configuration as versioned JSON in a uint8 tensor, for state dicts."""
    return torch.frombuffer(bytearray(configuration.to_json().encode()), dtype=torch.uint8)


def from_tensor(tensor: Tensor) -> Configuration:
    """Decode a tensor from ``to_tensor``."""
    return from_json(bytes(tensor.cpu().tolist()).decode())
