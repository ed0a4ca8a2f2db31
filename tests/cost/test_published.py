"""The cost model against the published figures of three chips."""

from __future__ import annotations

import importlib
import json
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

import phasegrad as pg
from phasegrad.cost import Technology
from phasegrad.devices import hermes_two

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
chips, reproduce_costs = (importlib.import_module(m) for m in ("reproductions.published_chips", "reproduce_costs"))

TECHNOLOGIES = {
    "core": pg.cost.hermes_core(), "one phase": pg.cost.hermes_64_core(), "four": pg.cost.hermes_64_core(phases=4),
    "speech": pg.cost.ambrogio_2023(),
}  # fmt: skip
GROUPS = {"hermes": chips.hermes_figures, "layers": chips.layer_figures, "speech": chips.speech_figures}
FITTED = {"hermes": 5, "layers": 2, "speech": 4}
"""Constants of each group that were chosen to reproduce a figure."""


@pytest.mark.parametrize("technology", TECHNOLOGIES.values(), ids=TECHNOLOGIES)
def test_every_constant_says_where_it_is_from(technology: Technology) -> None:
    for name, constant in technology.constants.items():
        assert constant.origin != "given", name
        assert any(part in constant.source for part in ("et al.", "included in", "hermes_")), name


@pytest.mark.parametrize("group", GROUPS)
def test_fits_have_fewer_constants_than_figures(group: str) -> None:
    origins = Counter(figure.origin for figure in GROUPS[group]())
    assert origins["fitted"] == FITTED[group]
    assert origins["predicted"] >= 2


@pytest.mark.parametrize("group", GROUPS)
def test_a_fit_reproduces_what_it_was_fitted_to(group: str) -> None:
    for figure in GROUPS[group]():
        if figure.origin == "fitted":
            assert figure.error == pytest.approx(0.0, abs=1e-3), figure


def test_products_of_the_hermes_chips_within_two_percent() -> None:
    for figure in chips.hermes_figures():
        assert abs(figure.error) < 0.02, figure


def test_whole_layers_of_the_chip_with_64_cores() -> None:
    bounds = {"ns": 0.03, "uJ": 0.15, "%": 0.15}
    for figure in chips.layer_figures():
        assert abs(figure.error) < bounds[figure.unit], figure


def test_layers_use_the_cores_of_the_chip() -> None:
    resnet, lstm = (chips.hermes_layer(name, 1).layers[0] for name in ("ResNet-9 layer", "LSTM step"))
    assert (resnet.tiles, lstm.tiles) == (8, 32)
    # Independent of the model: so many products of published energy are the published 11 and 32 % of a layer's energy.
    one, four = (2 * 256**2 / efficiency for efficiency in (9.76e12, 2.48e12))
    assert resnet.tiles * one / 0.97e-6 == pytest.approx(0.11, abs=0.005)
    assert lstm.tiles * four / 5.24e-6 == pytest.approx(0.32, abs=0.005)


def test_ladder_of_the_speech_chip() -> None:
    expanded, halved = (figure.error for figure in chips.speech_figures() if figure.origin == "predicted")
    assert abs(expanded) < 0.025
    assert abs(halved) < 0.08


@pytest.mark.slow
def test_an_ageing_chip_saves_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chips, "AGES", (chips.AGES[0], chips.AGES[-1]))
    rows = chips.gains([0])
    speech, hermes = ([row for row in rows if row["method"].startswith(chip)] for chip in ("speech chip", "HERMES"))
    assert len(speech) == len(hermes) == len(chips.DEVICES)
    for row in speech:
        assert 0.03 < row["mean"] < 0.15, row
        assert 0.0 < row["with_static_power"] < 0.10, row
    for row in hermes:  # oscillators, not the array, take the energy of a product
        assert 0.005 < row["mean"] < 0.03, row


def test_the_gain_is_that_of_the_conductances() -> None:
    technology, size = pg.cost.ambrogio_2023(), 64
    layer = torch.nn.Linear(size, size, bias=False)
    layer.weight.data = torch.randn(size, size, generator=torch.Generator().manual_seed(0)).clamp(-3.0, 3.0)
    chip = pg.inference.program(chips.on_tiles(layer, size, hermes_two()), seed=0)
    energies = chips.energies_by_age(technology, size, hermes_two(), 0)
    for seconds, (energy, _) in zip(chips.AGES, energies, strict=True):
        devices = pg.inference.age(chip, seconds=seconds).devices
        conductance = float(devices.present(devices.clock).sum(dtype=torch.float64))
        array = 0.2**2 * 256e-9 * chips.MEAN_INPUT * conductance  # V^2 G t
        assert energy - technology.constants["tile_energy"].value == pytest.approx(array, rel=1e-5)


def test_what_was_not_published_of_the_core_is_asked_for() -> None:
    result = chips.one_tile(pg.cost.hermes_core(), 256)
    with pytest.raises(ValueError, match="local_energy"):
        _ = result.energy
    with pytest.raises(ValueError, match="link_time"):
        _ = result.latency


def test_other_phases_are_refused() -> None:
    with pytest.raises(ValueError, match=r"hermes_64_core: phases = 2; it must be 1 or 4"):
        pg.cost.hermes_64_core(phases=2)


@pytest.mark.slow
def test_results_and_picture_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(chips, "DEVICES", {"hermes_two": hermes_two()})
    monkeypatch.setattr(chips, "TILES", chips.TILES[1:])
    monkeypatch.setattr(sys, "argv", ["x", "--seeds", "0", "--out", str(tmp_path)])
    reproduce_costs.main()
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["degrees_of_freedom"] == sum(row["origin"] == "predicted" for row in result["rows"] if "unit" in row)
    assert result["technologies"]["hermes_core"]
    assert (tmp_path / "result.png").stat().st_size > 0
    assert "LSTM step, one phase" in capsys.readouterr().out
