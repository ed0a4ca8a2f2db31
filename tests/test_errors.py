"""Errors state the fault and the fix; ordinary use raises no warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

import phasegrad as pg

IDEAL = pg.presets.ideal_inference()


def chip() -> nn.Module:
    return pg.inference.program(pg.convert(nn.Linear(4, 3), IDEAL), seed=0)


ERRORS: dict[str, tuple[Callable[[], object], str, str]] = {
    "shape": (lambda: pg.nn.AnalogLinear(4, 3, hardware=IDEAL)(torch.ones(2, 5)), r"\[2, 5\]", "in_features = 4"),
    "field": (lambda: replace(IDEAL, rows=-1), "rows = -1", r"an integer in \[1, 1048576\]"),
    "twice": (lambda: pg.convert(chip(), IDEAL), "converted already", r"pg\.to_digital"),
    "unconverted": (
        lambda: pg.inference.program(nn.Linear(4, 3)),
        "no analog layer",
        r"pg\.convert\(model, hardware\)",
    ),
    "unprogrammed": (
        lambda: pg.inference.age(pg.convert(nn.Linear(4, 3), IDEAL), seconds=1.0),
        "never programmed",
        r"pg\.inference\.program\(net\)",
    ),
    "programmed": (lambda: pg.inference.program(chip()), "already programmed", "program the original net"),
    "trained": (lambda: pg.hwa.fine_tune(chip(), []), "is programmed", "use the net the chip was programmed from"),
    "younger": (lambda: pg.inference.age(chip(), seconds=-1.0), r"seconds = -1\.0 s", "finite and not negative"),
    "other hardware": (
        lambda: pg.convert(nn.Linear(4, 3), replace(IDEAL, rows=8)).load_state_dict(chip().state_dict()),
        "rows: 8 != 512",
        "delete its 'configuration' entries",
    ),
    "pcm noise": (lambda: pg.hwa.Recipe(noise="pcm"), "noise = 'pcm'", "must be WeightNoise or None"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("act", "fault", "fix"), ERRORS.values(), ids=ERRORS)
def test_an_error_states_the_fault_and_the_fix(act: Callable[[], object], fault: str, fix: str) -> None:
    with pytest.raises((ValueError, TypeError), match=f"(?s){fault}.*{fix}"):
        act()


def test_fine_tuning_and_inference_raise_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = pg.convert(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)), pg.presets.pcm_inference())
        data = [(torch.randn(8, 6), torch.randint(2, (8,))) for _ in range(2)]
        pg.hwa.fine_tune(net, data, epochs=1, progress=False)
        old = pg.inference.compensate(pg.inference.age(pg.inference.program(net, seed=0), seconds=1e5), seed=0)
        old(data[0][0])
        str(pg.summary(old))
        pg.to_digital(old)(data[0][0])


def test_backends_name_the_implementation_for_each_kind_of_device() -> None:
    found = pg.backends()
    assert set(found) == {"cpu", "cuda"}
    assert found["cpu"] == "torch reference" or found["cpu"].startswith("native (")
