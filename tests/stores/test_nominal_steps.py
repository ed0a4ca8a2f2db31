"""An update at a weight of 0 changes the weight by ``lr x d``, for every deterministic law and both kinds of cells."""

from __future__ import annotations

import pytest
import torch

from phasegrad.cells import Cell, DifferentialPair, MultiMemristive, ReferencedDevice
from phasegrad.crossbar import Hardware, Pulses
from phasegrad.devices import (
    ConstantSteps,
    ExponentialSteps,
    LinearSteps,
    PiecewiseSteps,
    PowerSteps,
    SoftBoundsSteps,
    Steps,
    ideal_device,
)
from phasegrad.stores import AnalogWeight, pulsed_weight

SEED = torch.tensor([5])
SHAPE = (100, 100)
G_MAX, SIZE = 25e-6, 1e-9
IN_BOTH_CELLS: dict[str, Steps] = {
    "constant": ConstantSteps(size=SIZE),
    "exponential": ExponentialSteps(size=SIZE),
    "steep exponential": ExponentialSteps(size=SIZE, a_up=0.3, gamma_up=2.0, a_down=0.4, gamma_down=1.0),
    "power": PowerSteps(size=SIZE, gamma_up=1.5, gamma_down=2.0),
    "piecewise": PiecewiseSteps(size=SIZE, up=(1.0, 0.4, 0.1), down=(0.2, 0.5, 1.0)),
}
WITH_A_REFERENCE: dict[str, Steps] = {
    "linear": LinearSteps(size=SIZE, slope_up=0.4, slope_down=1.0),
    "soft bounds": SoftBoundsSteps(size=SIZE),
}
CASES = [
    *((name, law, ReferencedDevice) for name, law in {**IN_BOTH_CELLS, **WITH_A_REFERENCE}.items()),
    *((name, law, DifferentialPair) for name, law in IN_BOTH_CELLS.items()),
    ("soft bounds from zero", SoftBoundsSteps(size=SIZE, from_zero=True), DifferentialPair),
    ("power", IN_BOTH_CELLS["power"], MultiMemristive),
]


def change(cell: Cell, d: float, lr: float) -> torch.Tensor:
    """Change of weights of 0 by an update of 100 samples with inputs of 1."""
    hardware = Hardware(cell=cell, scale=0.6, pulses=Pulses())
    devices = AnalogWeight(hardware, *SHAPE, hardware.columns)
    devices.program_weight(torch.zeros(SHAPE), torch.full_like(devices.scale, 0.6), torch.ones(1), SEED)
    weight = devices.logical_weight()
    before = weight.double()
    x, gradient = torch.ones(100, SHAPE[1]), torch.full((100, SHAPE[0]), d)
    pulsed_weight.update(devices, [(x, gradient)], lr, SEED, weight)
    return weight.double() - before


@pytest.mark.parametrize(("name", "law", "cell"), CASES, ids=[f"{c[0]} {c[2].__name__}" for c in CASES])
def test_an_update_of_a_weight_of_zero_has_the_size_of_the_learning_rate(
    name: str, law: Steps, cell: type[Cell]
) -> None:
    made = cell(device=ideal_device(g_max=G_MAX, steps=law), **({"pairs": 3} if cell is MultiMemristive else {}))
    lr, d = 5e-6, 0.7
    changes = [change(made, sign * d, lr).mean().item() * -sign for sign in (1.0, -1.0)]
    size = abs(made.factors[0]) * 0.6 * law.size / G_MAX
    pulses = 100.0 * lr * d / size  # per weight, about; each line has its own trains, so count a line only once
    expected = 100.0 * lr * d
    assert sum(changes) / 2.0 == pytest.approx(expected, rel=5.0 / (pulses * SHAPE[0]) ** 0.5 + 2e-3)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 3.0])
def test_the_nominal_step_of_a_power_law_is_that_of_the_middle(gamma: float) -> None:
    law = PowerSteps(size=SIZE, gamma_up=gamma, gamma_down=gamma)
    hardware = Hardware(cell=ReferencedDevice(device=ideal_device(g_max=G_MAX, steps=law)), scale=0.6, pulses=Pulses())
    devices = AnalogWeight(hardware, 2, 3, 2)
    assert devices.dw_min == pytest.approx(0.6 * 2.0 * SIZE / G_MAX * 2.0**-gamma)
