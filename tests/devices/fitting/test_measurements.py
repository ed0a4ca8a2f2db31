"""Measurements that cannot be fitted are refused, with the row and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import phasegrad as pg
from phasegrad.devices.fitting.measurements import read_measurements

DEVICES, PULSES = 10, 5


def columns(**changed: Any) -> dict[str, Any]:
    """Pulse trains of 10 devices with 5 reads each."""
    pulse = np.tile(np.arange(PULSES), DEVICES)
    made = {"device": np.repeat(np.arange(DEVICES), PULSES), "pulse": pulse, "conductance": 1e-6 + 0.5e-6 * pulse}
    return {**made, **changed}


def with_value(name: str, row: int, value: float) -> dict[str, Any]:
    changed = columns()[name].astype(float)
    changed[row] = value
    return columns(**{name: changed})


def over_time(times: list[float]) -> dict[str, Any]:
    n = len(times)
    conductance = np.tile(10e-6 - 1e-7 * np.arange(n), DEVICES)
    return {"device": np.repeat(np.arange(DEVICES), n), "time": times * DEVICES, "conductance": conductance}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (columns(conductance=25.0 + np.arange(50.0)), "if the column is in µS, multiply it by 1e-06"),
        (with_value("conductance", 7, float("nan")), r"conductance = nan in row 8 \(1 such rows\); remove rows"),
        (with_value("conductance", 3, -1e-7), "conductance = -1e-07 in row 4 .* subtract the offset"),
        (columns(conductance=np.full(50, 5e-6)), "constant data determine no law"),
        (with_value("pulse", 2, 1.0), "two rows with pulse = 1; keep one of them"),
        (with_value("pulse", 4, 7.0), "pulse goes from 3 to 7 at device 0"),
        (columns(device=np.repeat(np.arange(5), 10), pulse=np.tile(np.arange(10), 5)), "5 devices are too few"),
        (columns(conductance=np.ones(49)), "the columns have the shapes"),
        (columns(conductance=["1e-6"] * 49 + ["5 uS"]), "conductance = '5 uS' in row 50; it must be a number"),
        ({"device": [1], "conductance": [1e-6]}, "give device, conductance and one of pulse, time, amplitude, target"),
        (over_time([20.0, 50.0, 40.0, 100.0]), "time falls from 50 to 40 at device 0; it must increase; sort"),
        (over_time([0.0, 1.0, 2.0, 3.0]), "it must be above 0, because times count from the programming"),
    ],
)
def test_bad_measurements_are_refused_with_the_remedy(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_measurements(data)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (
            columns(),
            {"law": "cubic"},
            "law = 'cubic'; it must be one of 'constant'|law = 'cubic'; it must be 'constant'",
        ),
        (columns(), {"g_max": 20.0}, "give g_max in siemens"),
        (columns(), {"read_sd": (0.13, 0.0)}, "read_sd = "),
        (over_time([20.0, 50.0, 100.0]), {}, "has 3 rows; a drift exponent with its error needs 4 or more"),
        (
            over_time([20.0, 50.0, 90.0, 99.0]),
            {"law": {"nu": "constant"}},
            "law has 'nu'; these measurements determine",
        ),
        (over_time([20.0, 50.0, 90.0, 99.0]), {"law": {"nu_sd": "cubic"}}, "it must be one of constant, logarithm"),
        (
            over_time([20.0, 50.0, 90.0, 99.0]),
            {"t_read": 1e3},
            "t0, the reference time of drift, must be above 2 t_read",
        ),
    ],
)
def test_bad_arguments_are_refused_with_the_remedy(data: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pg.devices.fit(data, **options)


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="data = 3; it must be the path of a CSV file, or columns by name"):
        pg.devices.fit(3)
    with pytest.raises(TypeError, match="law = 'constant'; for these measurements it must be a dict"):
        pg.devices.fit(over_time([20.0, 50.0, 90.0, 99.0]), "constant")


def test_a_csv_file_reads_as_its_columns(tmp_path: Path) -> None:
    file = tmp_path / "pulses.csv"
    rows = [f"{d},{p},{c}" for d, p, c in zip(*columns().values(), strict=True)]
    file.write_text("# measured on wafer 7\n" + "\n".join(["Device, pulse, conductance", *rows]) + "\n")
    found, direct = read_measurements(file), read_measurements(columns())
    assert found.names == direct.names
    np.testing.assert_array_equal(found["conductance"], direct["conductance"])
    file.write_text(file.read_text() + "1,2\n")
    with pytest.raises(ValueError, match=r"row 51 of .* has 2 values for 3 columns; complete the row"):
        read_measurements(file)


def test_rows_may_be_in_any_order_of_devices_and_of_any_array_type() -> None:
    order = np.argsort(np.tile(np.arange(PULSES), DEVICES), kind="stable")
    mixed = {name: torch.from_numpy(column[order]) for name, column in columns().items()}
    found, direct = read_measurements(mixed), read_measurements(columns())
    np.testing.assert_array_equal(found["conductance"], direct["conductance"])
    np.testing.assert_array_equal(found.device, direct.device)
