"""Estimates print, and write rows, JSON, data frames and pictures."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.cost.technologies import converted, known, technology
from torch import nn

from phasegrad.configuration import from_json
from phasegrad.cost import Estimate, estimate, hermes_64_core
from phasegrad.cost.printing import aligned


def example(**changes: Any) -> Estimate:
    torch.manual_seed(0)
    net = converted(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)))
    return estimate(net, torch.empty(2, 2, 8, 8), technology=technology(**changes), activity=0.25)


def test_the_table_has_layers_totals_constants_and_assumptions() -> None:
    text = str(example(adc_energy=known(1e-12)))
    first = text.splitlines()[2].split()
    assert first[:2] == ["0", "Conv2d"]
    assert "latency:" in text
    assert "TOPS/W" in text
    assert "adc_energy" in text
    assert "1e-12 J" in text
    assert "published: a paper" in text
    assert "an average of 0.25 for all layers" in text
    assert "missing" not in text


def test_what_is_missing_is_left_out_of_the_table_and_listed() -> None:
    text = str(example(adc_energy=None))
    assert "not computed, because constants are missing:\n  energy: adc_energy [J]" in text
    assert "TOPS/W" not in text
    assert "TOPS/mm2" in text


def test_no_line_is_longer_than_120_columns() -> None:
    net = nn.Sequential()
    net.add_module("a_long_name_" * 12, nn.Linear(144, 5))
    net = converted(net)
    for options in ({}, {"technology": technology(adc_energy=None)}, {"technology": hermes_64_core(phases=4)}):
        text = str(estimate(net, torch.empty(1, 144), **options))
        assert max(map(len, text.splitlines())) <= 120
        assert re.search(r"^\.\.\.[a-z_]*name_ ", text, re.MULTILINE)


def test_modules_around_a_layer_are_initials_where_a_name_is_too_long() -> None:
    row = ("encoder.layer.11.attention.self.query", "1" * 95)
    assert aligned([("layer", "n"), row, ("total", "")])[2].split()[0] == "e.l.11.a.self.query"
    assert aligned([("layer", "n"), (row[0], "1"), ("total", "")])[2].split()[0] == row[0]


def test_without_a_technology_the_table_counts_and_says_which_there_are() -> None:
    text = str(estimate(converted(nn.Sequential(nn.Linear(144, 5))), torch.empty(2, 144)))
    assert "latency" not in text
    assert "conversions" in text.splitlines()[0]
    assert "pass technology=pg.cost.hermes_64_core()" in text


def test_without_an_activity_the_energy_is_an_upper_bound_and_called_so() -> None:
    net, x = converted(nn.Sequential(nn.Linear(144, 5))), torch.empty(2, 144)
    bound, half = (estimate(net, x, technology=technology(), activity=a) for a in (None, 0.5))
    assert bound.energies["array"] == pytest.approx(2 * half.energies["array"])
    assert bound.energy_is_upper_bound
    assert not half.energy_is_upper_bound
    text = str(bound)
    assert "energy <=" in text.splitlines()[0]
    assert "TOPS, at least" in text
    assert "array: an upper bound, every input at full range; pass activity=" in text
    assert json.loads(bound.to_json())["energy_is_upper_bound"]
    assert "upper bound" not in str(half)
    free = estimate(net, x, technology=technology(read_voltage=0.0))
    assert not free.energy_is_upper_bound


def test_free_products_of_the_digital_unit_are_told() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.layer(x)
            return y @ y.mT

    net, x = converted(Attention()), torch.empty(1, 4, 8)
    text = " ".join(str(estimate(net, x, technology=hermes_64_core())).split())
    assert "matrix products of the digital unit (bmm) cost nothing, because the technology has digital_energy" in text
    assert "cost nothing, because" not in str(estimate(net, x, technology=technology()))


def test_rows_are_written_as_csv_and_add_up_to_the_totals(tmp_path: Path) -> None:
    found = example()
    found.to_csv(tmp_path / "cost.csv")
    with (tmp_path / "cost.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["layer"] for row in rows] == ["0", "3", "relu", "partial sums and biases", "(rest of the chip)"]
    totals = {"energy_J": found.energy, "area_m2": found.area, "operations": found.operations}
    totals |= {"latency_s": found.latency, "energy_static_J": found.energies["static"]}
    for name, total in totals.items():
        assert sum(float(row[name] or 0.0) for row in rows) == pytest.approx(total)
    assert rows[2]["products"] == ""


def test_json_holds_technology_totals_and_what_is_missing(tmp_path: Path) -> None:
    found = example(read_time=None)
    text = found.to_json(tmp_path / "cost.json")
    content = json.loads((tmp_path / "cost.json").read_text())
    assert content == json.loads(text)
    assert from_json(json.dumps(content["technology"])) == found.technology
    assert content["totals"]["area"] == found.area
    assert content["totals"]["energy"] is None
    assert content["rows"][0]["energy_J"] is None
    assert "read_time" in content["missing"]["energy"]


def test_breakdowns_add_up_to_the_totals() -> None:
    found = example()
    for quantity, total in (("energy", found.energy), ("latency", found.latency), ("area", found.area)):
        parts = found.breakdown(quantity)
        assert sum(sum(part.values()) for part in parts.values()) == pytest.approx(total)
    with pytest.raises(ValueError, match="quantity = 'power'"):
        found.breakdown("power")


def test_data_frames_need_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install pandas; rows\(\) returns"):
        example().to_frame()
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=list))
    assert example().to_frame() == example().rows()


@pytest.mark.parametrize("quantity", ["energy", "latency", "area"])
def test_pictures_have_a_bar_for_each_layer(tmp_path: Path, quantity: str) -> None:
    pytest.importorskip("matplotlib")
    figure = example().plot(tmp_path / "cost.png", quantity=quantity, title="a net")
    assert (tmp_path / "cost.png").stat().st_size > 5000
    (axes,) = figure.axes
    assert quantity in axes.get_xlabel()
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert shown[:2] == ["0", "3"]


def test_a_picture_of_what_is_missing_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="adc_area"):
        example(adc_area=None).plot(tmp_path / "cost.png", quantity="area")
    assert not (tmp_path / "cost.png").exists()
