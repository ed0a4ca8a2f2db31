"""Published numbers cite their sources: authors, journal, year, DOI."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

import phasegrad as pg
from phasegrad import devices

DOI = re.compile(r"https://doi\.org/10\.\d{4,9}/\S+[^\s.,;]")
IDEAL = {"ideal_device", "ideal_inference"}
"""Hardware without published numbers."""

PUBLISHED = {
    **{name: getattr(pg.presets, name) for name in pg.presets.__all__},
    **{
        name: getattr(devices, name)
        for name in (
            "PCM",
            "Capacitor",
            "ConstantSteps",
            "CorrelatedNoise",
            "ExponentialSteps",
            "JumpTable",
            "hermes_one",
            "hermes_two",
            "ideal_device",
            "joshi_2020",
            "melt_and_quench",
            "nandakumar_2018",
            "nandakumar_2018_device",
            "nandakumar_2018_partial_set",
            "projected",
        )
    },
    **{name: getattr(pg.cells, name) for name in ("DifferentialPair", "MultiMemristive", "SignificancePairs")},
}


def test_every_published_device_function_is_checked() -> None:
    functions = {name for name in devices.__all__ if inspect.isfunction(getattr(devices, name))}
    assert functions - {"fit", "scaled", "trace"} <= PUBLISHED.keys()


@pytest.mark.parametrize("name", sorted(PUBLISHED.keys() - IDEAL))
def test_docstring_has_references_with_a_doi(name: str) -> None:
    published: Any = PUBLISHED[name]
    section = re.split(r"^References:\n", inspect.getdoc(published) or "", flags=re.MULTILINE)
    assert len(section) == 2, f"{name} has {len(section) - 1} References sections; it must have one"
    text = re.split(r"^\w+:\n", section[1], flags=re.MULTILINE)[0]
    assert DOI.search(text), f"the References of {name} have no DOI"
    assert re.search(r"\((19|20)\d\d\)", text), f"the References of {name} have no year"
