"""The matrix "which non-ideality works in which mode" of the README and of ``docs/index.md`` is true.

``yes``: it changes the outputs of that mode; ``–``: it is accepted and changes nothing; ``refused``: the hardware or
the layer raises ``ValueError``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.cells import Cell, DifferentialPair, DifferentialSlices, OffsetSlices
from phasegrad.crossbar import (
    Adc,
    BitSerialDac,
    Dac,
    DurationCodedDrop,
    FixedRange,
    Integrator,
    Pulses,
    SarAdc,
    Wires,
)
from phasegrad.devices import (
    ConstantSteps,
    CorrelatedNoise,
    Curve,
    Faults,
    SoftBoundsSteps,
    Telegraph,
    Thermal,
    ideal_device,
    projected,
)

ROOT = Path(__file__).parents[1]
DRIFT = Curve(polynomial=(0.05,))
FLICKER = Curve(polynomial=(0.05,))
DRIFTING = {"nu_mean": DRIFT, "t0": 1e-3, "t_read": 1e-7}


@dataclass(frozen=True)
class Effect:
    """The fields that a row of the matrix sets, and what it is compared with (by default, hardware without errors)."""

    device: dict[str, Any] = field(default_factory=dict)
    steps: dict[str, Any] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    pulses: dict[str, Any] = field(default_factory=dict)
    cell: Callable[..., Cell] | None = None
    liner: float = 0.0
    trained: bool = False
    without: Effect | None = None


ROWS = {
    "programming error": Effect(device={"programming_sd": (1e-6,)}),
    "drift, device-to-device variation of its exponent": Effect(device={"nu_mean": DRIFT, "nu_sd": DRIFT}),
    "1/f read noise, independent reads": Effect(device={"read_noise": FLICKER}),
    "1/f read noise, correlated in time": Effect(device={"read_noise": FLICKER, "correlated_noise": CorrelatedNoise()}),
    "telegraph noise": Effect(device={"telegraph": Telegraph(fraction=0.5, amplitude=0.2, rates=(1.0, 1e4))}),
    "temperature": Effect(device={"thermal": Thermal()}),
    "projection liner (smaller window)": Effect(
        device={"programming_sd": (1e-6,)}, liner=1e-6, without=Effect(device={"programming_sd": (1e-6,)})
    ),
    "faults: stuck devices, dead rows and columns": Effect(
        hardware={"faults": Faults(stuck_at_set=0.2, dead_rows=0.1, dead_columns=0.1)}
    ),
    "output noise": Effect(hardware={"output_noise": 0.05}),
    "ideal DAC and ADC": Effect(hardware={"dac": Dac(bits=4), "adc": Adc(bits=4, range=FixedRange(value=4.0))}),
    "converter errors (SAR, ramp, pipeline, ...)": Effect(
        hardware={"adc": SarAdc(bits=6, range=FixedRange(value=4.0), capacitor_mismatch=0.05)}
    ),
    "bit-serial inputs": Effect(
        hardware={"dac": BitSerialDac(bits=4), "adc": Adc(bits=4)}, without=Effect(hardware={"adc": Adc(bits=4)})
    ),
    "pulse-duration encoding": Effect(
        hardware={"dac": Dac(bits=4, range=FixedRange(value=3.0)), "integrator": Integrator(window=1e-7, tau=1e-7)}
    ),
    "wires, exact": Effect(hardware={"wires": Wires(word_line=50.0, bit_line=50.0)}),
    "wires, first order": Effect(hardware={"wires": Wires(word_line=50.0, bit_line=50.0, solve="first-order")}),
    "wires, duration-coded formula": Effect(hardware={"wires": DurationCodedDrop(segment=500.0)}),
    "bit slices, differential": Effect(cell=functools.partial(DifferentialSlices, bits=5, slices=2)),
    "bit slices, offset column": Effect(cell=functools.partial(OffsetSlices, bits=5, slices=2)),
    "update noise, cycle to cycle": Effect(steps={"c2c": 0.3}, trained=True),
    "update variation, device to device": Effect(
        steps={"d2d": 0.3, "imbalance": 0.05, "bounds_d2d": 0.3}, trained=True
    ),
    "non-linear, asymmetric steps": Effect(steps={"law": SoftBoundsSteps}, trained=True),
    "devices that no pulse moves": Effect(steps={"stuck": 0.5}, trained=True),
    "time that passes during training (drift, leak)": Effect(
        device=DRIFTING, pulses={"sample_time": 1.0}, trained=True, without=Effect(device=DRIFTING, trained=True)
    ),
}
COLUMNS = ("programmed chip", "hardware-aware training", "training in the memory", "wires", "slices", "embedding")


def build(column: str, effect: Effect) -> pg.Hardware:
    """Hardware with one effect, in the smallest form that the column needs."""
    device = replace(ideal_device(), **effect.device)
    if effect.liner:
        device = projected(device, liner=effect.liner)
    fields = {"rows": 8, "columns": 8, **effect.hardware}
    kind = effect.cell or DifferentialPair
    if column == "wires":
        fields = {"wires": Wires(word_line=20.0, bit_line=20.0), **fields}
    elif column == "slices" and effect.cell is None:
        kind = functools.partial(DifferentialSlices, bits=7, slices=2)
    pulsed = column == "training in the memory" or (effect.trained and column in ("wires", "slices", "embedding"))
    if pulsed or effect.steps:
        law = {"law": ConstantSteps, "size": 0.25e-6, **effect.steps}
        device = replace(device, steps=law.pop("law")(**law))
    if pulsed:
        fields |= {"pulses": Pulses(**effect.pulses), "scale": 0.6}
    return pg.Hardware(cell=kind(device=device), **fields)


def outputs(column: str, effect: Effect) -> Tensor:
    """The outputs of the mode under fixed seeds, a day after programming or training."""
    hardware = build(column, effect)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(12, 12) if column == "embedding" else nn.Linear(12, 12))
    x = torch.arange(12) if column == "embedding" else torch.randn(6, 12)
    with pg.conversion.register_counterpart(nn.Embedding, pg.nn.AnalogEmbedding.from_digital):
        net = pg.convert(net, hardware)
    torch.manual_seed(1)
    if column == "hardware-aware training":
        pg.hwa.calibrate(net, [x], recipe=pg.hwa.Recipe(clip_sigma=0.0))
        net.train()
        return net(x)
    if column == "training in the memory":
        net(x).square().sum().backward()
        pg.optim.AnalogSGD(net.parameters(), lr=0.1).step()
        net = pg.inference.age(net, 86_400.0)
        torch.manual_seed(2)
        return net(x)
    chip = pg.inference.program(net, seed=0)
    warm = {"temperature": 320.0} if effect.device.get("thermal") else {}
    chip = pg.inference.age(chip, 86_400.0, **warm)
    torch.manual_seed(2)
    return chip(x)


def expected(name: str = "README.md") -> dict[str, dict[str, str]]:
    """The matrix of a page: rows, then columns."""
    table: dict[str, dict[str, str]] = {}
    lines = iter((ROOT / name).read_text(encoding="utf-8").splitlines())
    heads = next(cells(line) for line in lines if line.startswith("| non-ideality"))[1:]
    next(lines)
    for line in lines:
        if not line.startswith("|"):
            break
        row, *entries = cells(line)
        table[row] = dict(zip(heads, entries, strict=True))
    return table


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def found(row: str, column: str) -> str:
    try:
        with_it = outputs(column, ROWS[row])
    except ValueError:
        return "refused"
    without = outputs(column, ROWS[row].without or Effect())
    return "–" if torch.equal(with_it, without) else "yes"


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("row", ROWS)
def test_matrix(row: str, column: str) -> None:
    assert found(row, column) == expected()[row][column]


def test_both_pages_show_the_same_matrix() -> None:
    assert expected("README.md") == expected("docs/index.md")
    assert list(expected()) == list(ROWS)
