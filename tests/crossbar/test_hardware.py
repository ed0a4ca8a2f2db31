"""Hardware is immutable, checked at construction, and preserved by JSON."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace

import pytest
import torch

import phasegrad as pg
from phasegrad.configuration import from_json
from phasegrad.crossbar import AbsMaxRange, Adc, CalibratedRange, Dac, Hardware, LearnedRange
from phasegrad.crossbar.hardware import from_tensor, to_tensor

IDEAL = pg.presets.ideal_inference()

TABLED = pg.devices.PCM(
    g_max=20e-6,
    t0=20.0,
    t_read=250e-9,
    programming_sd=(0.3e-6, 0.8e-6),
    nu_mean=pg.devices.Table(g=(0.0, 1.0), value=(0.1, 0.04)),
    nu_sd=pg.devices.Curve(polynomial=(0.01,)),
    read_noise=None,
)
CONFIGURATIONS = {
    "pcm": pg.presets.pcm_inference(),
    "hermes": pg.presets.hermes_inference(devices=2),
    "ideal": IDEAL,
    "unusual": Hardware(
        cell=pg.cells.SignificancePairs(device=TABLED, significances=(2.0, 1.0)),
        rows=7,
        scale="tile",
        dac=Dac(bits=5, range=AbsMaxRange()),
        adc=Adc(bits=9, range=CalibratedRange(percentile=99.5), convention="mid-rise"),
    ),
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rows", 0),
        ("rows", -512),
        ("rows", 512.0),
        ("rows", True),
        ("columns", 0),
        ("columns", "512"),
        ("scale", "row"),
        ("output_noise", -0.04),
        ("output_noise", float("nan")),
        ("read_noise", float("inf")),
        ("read_noise", "0.02"),
    ],
)
def test_invalid_numbers_raise_with_field_and_value(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"Hardware: {field} = {value!r}"):
        replace(IDEAL, **{field: value})


@pytest.mark.parametrize(("field", "value"), [("cell", TABLED), ("dac", 8), ("adc", Dac())])
def test_components_of_the_wrong_type_raise_with_the_field(field: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"Hardware: {field} = "):
        replace(IDEAL, **{field: value})


def test_hardware_is_immutable_and_keyword_only() -> None:
    with pytest.raises(FrozenInstanceError):
        IDEAL.rows = 3  # type: ignore[misc]
    with pytest.raises(TypeError, match="positional"):
        Hardware(IDEAL.cell)  # type: ignore[misc]


@pytest.mark.parametrize("hardware", CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def test_json_preserves_hardware(hardware: Hardware) -> None:
    again = from_json(hardware.to_json())
    assert again == hardware
    assert hash(again) == hash(hardware)
    assert hardware.differences(again) == []


@pytest.mark.parametrize("hardware", CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def test_tensors_preserve_hardware(hardware: Hardware) -> None:
    tensor = to_tensor(hardware)
    assert tensor.dtype == torch.uint8
    assert from_tensor(tensor.clone()) == hardware


def test_differences_contain_path_and_both_values() -> None:
    other = replace(IDEAL, rows=256, cell=pg.cells.DifferentialPair(device=pg.devices.ideal_device(g_max=20e-6)))
    assert sorted(IDEAL.differences(other)) == ["cell.device.g_max: 2.5e-05 != 2e-05", "rows: 512 != 256"]


def test_differences_of_type_are_reported_once() -> None:
    mine = replace(IDEAL, dac=Dac(range=LearnedRange()))
    assert mine.differences(replace(IDEAL, dac=Dac(range=AbsMaxRange()))) == ["dac.range: LearnedRange != AbsMaxRange"]
    assert mine.differences(IDEAL) == ["dac: Dac != None"]


def test_json_of_another_version_is_refused() -> None:
    content = json.loads(IDEAL.to_json()) | {"version": 99}
    with pytest.raises(ValueError, match="version 99"):
        from_json(json.dumps(content))


def test_json_of_an_unknown_type_is_refused() -> None:
    with pytest.raises(ValueError, match="'Hardware2' is unknown"):
        from_json(IDEAL.to_json().replace('"Hardware"', '"Hardware2"'))


def test_json_with_an_invalid_number_is_refused() -> None:
    with pytest.raises(ValueError, match="Hardware: rows = 0"):
        from_json(IDEAL.to_json().replace('"rows": 512', '"rows": 0'))
