"""Names of release 0.1.0 still work, and warn."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

import phasegrad as pg
from phasegrad.crossbar import Adc, Dac, DurationCodedDrop, Hardware, Pulses, Wires
from phasegrad.crossbar.converters import InputSlice

CELL = pg.presets.soft_bounds_training().cell
WIRES = Wires(word_line=1.0, bit_line=2.0)
DROP = DurationCodedDrop()

CASES: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "Hardware(update=)": (
        lambda: Hardware(cell=CELL, scale=1.0, update=Pulses()),  # type: ignore[call-arg]
        Hardware(cell=CELL, scale=1.0, pulses=Pulses()),
        "pulses=",
    ),
    "Hardware.update": (lambda: pg.presets.soft_bounds_training().update, Pulses(), "pulses"),
    "Hardware.drop": (lambda: Hardware(cell=CELL, wires=DROP).drop, DROP, "ir_drop"),
    "Hardware.turned": (lambda: Hardware(cell=CELL, rows=2).turned, Hardware(cell=CELL, columns=2), "transposed"),
    "Pulses(adaptive=)": (lambda: Pulses(adaptive=False), Pulses(bl_management=False), "bl_management="),  # type: ignore[call-arg]
    "Pulses(managed=)": (lambda: Pulses(managed=False), Pulses(update_management=False), "update_management="),  # type: ignore[call-arg]
    "Wires.lines": (lambda: WIRES.lines, WIRES.resistances, "resistances"),
    "Adc.half": (lambda: Adc().half, 127.0, "max_code"),
    "Dac.half": (lambda: Dac().half, 127.0, "max_code"),
    "Dac.phases": (lambda: len(Dac().phases(torch.zeros(1, 1), torch.ones(1), None)), 1, "input_slices"),
    "Phase": (lambda: importlib.import_module("phasegrad.crossbar.converters").Phase, InputSlice, "InputSlice"),
    "Spread": (
        lambda: importlib.import_module("phasegrad.crossbar.converters.base").Spread,
        tuple[float, float],
        "Tolerance",
    ),
    "Cell.cut": (lambda: CELL.cut(torch.ones(1)), torch.ones(1, 1), "bit_slice"),
    "Cell.renewed": (
        lambda: CELL.renewed(torch.full((1, 1), 25e-6)),
        CELL.rewrite_targets(torch.full((1, 1), 25e-6)),
        "rewrite_targets",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_former_name_warns_and_works(case: str) -> None:
    use, wanted, new = CASES[case]
    with pytest.warns(DeprecationWarning, match=f"renamed to {new} in phasegrad 0.2.0"):
        found = use()
    assert found == wanted
