"""Everything that measures a population programs its chips with every option of ``program``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import phasegrad as pg
from phasegrad.devices import Faults
from phasegrad.inference import accuracy_over_time, design_map, program, sensitivity
from phasegrad.inference.report import seed_of_chip

MEASURES: dict[str, Callable[..., Any]] = {
    "accuracy_over_time": lambda net, look, **o: accuracy_over_time(net, look, (1.0, 20.0), **o),
    "sensitivity": lambda net, look, **o: sensitivity(net, look, time=20.0, target=-1.0, **o),
    "design_map": lambda net, look, **o: design_map(net, look, noise=(1.0,), drift=(1.0,), times=(1.0, 20.0), **o),
}
FAULTS = Faults(stuck_at_set=0.2)
OPTIONS: dict[str, dict[str, Any]] = {
    "faults": {"faults": FAULTS},
    "pair": {"faults": FAULTS, "map_around": ("pair",)},
    "columns": {"faults": FAULTS, "map_around": ["columns", "pair"]},
}
measures = pytest.mark.parametrize("measure", MEASURES)


def preset() -> nn.Module:
    torch.manual_seed(0)
    made = pg.convert(nn.Sequential(nn.Linear(12, 6)), pg.presets.pcm_inference())
    return pg.hwa.calibrate(made, [torch.randn(9, 12)], recipe=None)


@pytest.mark.parametrize("measure", [accuracy_over_time, sensitivity, design_map])
def test_no_option_is_missing(measure: Callable[..., Any]) -> None:
    mine, of_program = (inspect.signature(f).parameters for f in (measure, program))
    for name in set(of_program) - {"net", "seed"}:
        assert mine[name].default == of_program[name].default
    assert mine["refresh"].default is None


@measures
@pytest.mark.parametrize("kind", ["faults", "pair", "columns"])
def test_the_chips_are_those_of_program(measure: str, kind: str) -> None:
    seen, digital = [], preset()

    def look(chip: nn.Module) -> float:
        layer = chip[0]
        if isinstance(layer, pg.nn.AnalogLayer):
            seen.append((layer.devices.stuck, layer.devices.conductance.clone()))
        return 0.0

    MEASURES[measure](digital, look, chips=1, seed=3, progress=False, **OPTIONS[kind])
    devices = program(digital, seed=seed_of_chip(3, 0), **OPTIONS[kind])[0].devices
    assert seen
    for stuck, conductance in seen:
        assert torch.equal(stuck.nan_to_num(-1.0), devices.stuck.nan_to_num(-1.0))
        assert torch.equal(conductance, devices.conductance)


@measures
def test_chips_are_rewritten(measure: str) -> None:
    ages = []

    def look(chip: nn.Module) -> float:
        layer = chip[0]
        if isinstance(layer, pg.nn.AnalogLayer):
            ages.append(float(layer.devices.age))
        return 0.0

    MEASURES[measure](preset(), look, chips=1, progress=False, refresh=15.0)
    assert max(ages) == 5.0
    with pytest.raises(ValueError, match="refresh = 0"):
        MEASURES[measure](preset(), look, chips=1, progress=False, refresh=0.0)


@measures
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"map_around": ("rows",)}, "map_around"),
        ({"map_around": "pair"}, "map_around"),
        ({"map_around": ("pair",)}, "no faults of 0 are known"),
        ({"faults": 0.1}, "faults"),
        ({"how": "verify"}, "how"),
    ],
)
def test_wrong_options(measure: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises((TypeError, ValueError), match=match):
        MEASURES[measure](preset(), lambda chip: 0.0, chips=1, progress=False, **options)
