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
from phasegrad.crossbar.converters import InputConverter, OutputConverter
from phasegrad.crossbar.duration import Integrator
from phasegrad.crossbar.fast import Fast
from phasegrad.crossbar.pulses import Pulses
from phasegrad.crossbar.wires import DurationCodedDrop, Wires
from phasegrad.ops import reference


@final
@dataclass(frozen=True, kw_only=True)
class Hardware(Configuration):
    """Cells, tiles and periphery. Frozen; every layer made with it keeps it.

    Args:
        cell: how devices make a weight.
        rows: word lines (inputs) of a tile.
        columns: bit lines (outputs) of a tile.
        scale: ``"column"``: each column of each tile has its own digital scale, so that its largest weight uses
            the whole conductance range; ``"tile"``: one scale a tile; a number: the weight of a fully programmed
            cell, everywhere, as training in the memory needs it.
        dac: converter of the inputs; ``None`` for exact inputs.
        adc: converter of the outputs; ``None`` for exact outputs.
        output_noise: standard deviation of the noise of each output, in units of ``max|w| max|x|``.
        read_noise: ``sigma_w`` of short-term weight noise referred to the output,
            ``sigma_w sqrt(sum_j |w_ij| x_j^2)`` in normalised units. It stands for devices while the weights are
            digital; programmed devices have their own read noise in its place, unless they read noiselessly.
        pulses: how pulses train the weights in the memory; ``None`` for weights that are trained digitally.
        fast: cells beside the others that take the update first, in the memory; ``None`` where it goes to the cells.
        wires: resistance of word and bit lines, or the field's formula for duration-coded inputs; ``None`` for ideal
            wires. Weights that are trained in the memory have ideal ones.
        integrator: the capacitors of columns whose inputs are pulse lengths; ``None`` for amplitudes.

    Raises:
        ValueError, TypeError: a field is impossible; the message names it.
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

    _renamed: ClassVar[dict[str, str]] = {"update": "pulses", "drop": "ir_drop", "turned": "transposed"}

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
                f"{self.adc.columns_per_converter}; a converter serves columns of one tile, so give no more than it has"
            )
        check_type(self, "wires", (Wires, DurationCodedDrop, type(None)))
        if self.wires is not None and self.cell.has_reference:
            raise ValueError(
                f"Hardware: wires = {self.wires} with cell = {type(self.cell).__name__}; the wires of a reference "
                "column are not modelled: give DifferentialSlices, or ideal wires"
            )
        check_type(self, "integrator", (Integrator, type(None)))
        self._check_integrator()
        if self.pulses is None:
            check_choice(self, "scale", ("column", "tile"))
            if self.fast is not None:
                raise ValueError("Hardware: fast is given without pulses; fast cells take pulses, so say how: Pulses()")
        else:
            self._check_training()
        check_number(self, "output_noise", 0.0)
        check_number(self, "read_noise", 0.0)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell that a weight has."""
        return (self.cell,) if self.fast is None else (self.cell, self.fast.cell)

    @property
    def linear_wires(self) -> Wires | None:
        """Wires that are part of the matrix, if there are."""
        return self.wires if isinstance(self.wires, Wires) else None

    @property
    def ir_drop(self) -> DurationCodedDrop | None:
        """A formula for wires that depends on the inputs, if there is."""
        return self.wires if isinstance(self.wires, DurationCodedDrop) else None

    @functools.cached_property
    def exact(self) -> bool:
        """Whether a product is what arithmetic gives, but for what devices add: no converter, no noise."""
        converted = self.dac is not None or self.adc is not None or self.integrator is not None
        return not converted and self.output_noise == 0 and self.read_noise == 0

    @functools.cached_property
    def transposed(self) -> Hardware:
        """The same tiles, driven from the side of their outputs."""
        return dataclasses.replace(self, rows=self.columns, columns=self.rows)

    def _check_integrator(self) -> None:
        if self.integrator is None:
            return
        if (self.dac is None) == (self.integrator.full_input is None):
            raise ValueError(
                f"Hardware: dac = {self.dac} and integrator.full_input = {self.integrator.full_input}; one of the two "
                "must say what input drives a line for the whole window: the DAC's range, or full_input"
            )
        named = {
            "wires": self.ir_drop is not None,
            "dac": self.dac is not None and not self.dac.at_once,
            "pulses": self.pulses is not None,
        }
        for field, other in named.items():
            if other:
                raise ValueError(
                    f"Hardware: integrator is given with {field} = {getattr(self, field)}; what that does to inputs "
                    "that are pulse lengths is not modelled: leave one of the two out (of wires, Wires will do; of "
                    "dac, one that drives a line once)"
                )

    def _check_training(self) -> None:
        if isinstance(self.scale, str):
            raise ValueError(
                f"Hardware: scale = {self.scale!r} with an update by pulses; give a number, the weight that a fully "
                "programmed cell stands for, because weights that are trained outgrow a scale taken from them"
            )
        check_number(self, "scale", 0.0, above=True)
        if self.wires is not None:
            raise ValueError(
                f"Hardware: wires = {self.wires} with an update by pulses; forward and transposed products of training "
                "in the memory have ideal wires. Train with wires=None, and look at what wires do with the trained "
                "weights: pg.convert(pg.to_digital(net), hardware), with wires and without pulses"
            )
        for cell in self.cells:
            _check_pulsed(cell)
        if self.adc is not None and self.adc.mode == reference.NO_CONVERTER:
            raise ValueError(
                f"Hardware: adc = {type(self.adc).__name__} with an update by pulses; in the memory gradients pass "
                "through the converters of the other side, which have no state: give an Adc without errors, or leave "
                "pulses out"
            )
        if self.dac is not None and not self.dac.trains_in_memory:
            raise ValueError(
                f"Hardware: dac = {type(self.dac).__name__} with errors, or bit by bit, and an update by pulses; in "
                "the memory gradients pass through the same converters: give a Dac without errors, or leave pulses out"
            )


def _check_pulsed(cell: Cell) -> None:
    if cell.slice_factors is not None:
        raise ValueError(
            f"Hardware: cell = {type(cell).__name__} with an update by pulses; pulses cannot train slices, since a "
            "carry would cross them: give a DifferentialPair, or leave pulses out and train digitally"
        )
    steps = cell.device.steps
    if steps is None:
        raise ValueError("Hardware: pulses are given, but the cell's device has no steps; give it its step law")
    remembers = (*cell.device.stateful_fields, *(("g_min",) if cell.device.lowest else ()))
    if remembers:
        raise ValueError(
            f"Hardware: pulses are given, but the cell's device has {', '.join(remembers)}, which only devices that are "
            "programmed and not pulsed may have; train with dataclasses.replace(device, ...) without it"
        )
    up, down = cell.pulsed(0)
    if up == down and not steps.two_sided:
        raise ValueError(
            f"Hardware: {type(steps).__name__} only raises a conductance, but {type(cell).__name__} lowers it too; use "
            "a DifferentialPair"
        )


def to_tensor(configuration: Configuration) -> Tensor:
    """A configuration as versioned JSON in a uint8 tensor, as state dicts carry it."""
    return torch.frombuffer(bytearray(configuration.to_json().encode()), dtype=torch.uint8)


def from_tensor(tensor: Tensor) -> Configuration:
    """Read what :func:`to_tensor` made."""
    return from_json(bytes(tensor.cpu().tolist()).decode())
