"""Accuracy over time and over chips: measurement, report, CSV file and errors."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

import phasegrad as pg
from phasegrad.inference import Report, accuracy_over_time, age, compensate, format_time, now, program

TIMES = (0.0, 3600.0, 3.15e7)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one thread, because threads this short mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def net() -> nn.Module:
    torch.manual_seed(0)
    return pg.convert(nn.Sequential(nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3)), pg.presets.pcm_inference())


def size(chip: nn.Module) -> float:
    """A number that depends on every weight and every read."""
    with torch.no_grad():
        return chip(torch.eye(12)).square().sum().item()


def measure(module: nn.Module | None = None, evaluate: Any = size, times: Any = TIMES, **options: Any) -> Report:
    options = {"chips": 3, "seed": 0, "progress": False} | options
    return accuracy_over_time(module if module is not None else net(), evaluate, times, **options)


REPORT = Report((1.0, 3600.0), np.array([[0.9, 0.7, 0.8, 1.0], [0.5, 0.5, 0.7, 0.6]]), 7, "tile")


def test_there_is_a_value_for_each_time_and_chip() -> None:
    report = measure()
    assert report.values.shape == (3, 3)
    assert report.times == TIMES
    assert (report.chips, report.seed, report.compensation) == (3, 0, "tile")
    assert len(np.unique(report.values)) == 9


def test_a_report_is_a_function_of_net_and_seed() -> None:
    module = net()
    values = measure(module).values
    torch.manual_seed(99)  # does not affect the report
    np.testing.assert_array_equal(measure(module).values, values)
    assert not np.isin(measure(module, seed=1).values, values).any()


def test_a_chip_does_not_depend_on_how_many_there_are() -> None:
    np.testing.assert_array_equal(measure(chips=2).values, measure(chips=3).values[:, :2])


def test_every_chip_is_evaluated_at_each_time_in_evaluation_mode() -> None:
    seen: list[tuple[float, bool]] = []

    def evaluate(chip: nn.Module) -> float:
        seen.append((now(chip), chip.training))
        return 0.0

    measure(net().train(), evaluate, chips=2)
    assert seen == [(time, False) for time in TIMES] * 2


@pytest.mark.parametrize("compensation", ["tile", "column", "layer", None])
def test_gains_are_those_of_compensation(compensation: str | None) -> None:
    gains: list[torch.Tensor] = []

    def evaluate(chip: nn.Module) -> float:
        gains.append(chip[0].devices.gain.clone())
        return 0.0

    measure(evaluate=evaluate, times=(3.15e7,), chips=1, compensation=compensation)
    one, mean = torch.ones(1, 6), gains[0].mean().item()
    if compensation is None:
        assert torch.equal(gains[0], one)
        return
    assert (gains[0].std() > 1e-4) == (compensation == "column")
    chips = [age(program(net(), seed=seed), seconds=3.15e7) for seed in range(20)]
    usual = torch.stack([compensate(chip, compensation=compensation, seed=1)[0].devices.gain.mean() for chip in chips])
    assert abs(mean - usual.mean().item()) < 5 * usual.std().item()


def test_the_net_is_not_modified() -> None:
    module = net().train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    measure(module)
    assert module.training
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_statistics_are_over_chips() -> None:
    np.testing.assert_allclose(REPORT.mean(), [0.85, 0.575])
    np.testing.assert_allclose(REPORT.sd(), [np.sqrt(0.05 / 3), np.sqrt(0.0275 / 3)])
    np.testing.assert_allclose(REPORT.quantile(0.5), [0.85, 0.55])
    np.testing.assert_allclose(REPORT.quantile(0.0), [0.7, 0.5])
    np.testing.assert_allclose(REPORT.quantile(1.0), [1.0, 0.7])


def test_one_chip_has_no_standard_deviation() -> None:
    report = measure(chips=1)
    np.testing.assert_array_equal(report.sd(), np.zeros(3))
    np.testing.assert_array_equal(report.quantile(0.05), report.mean())


def test_rows_hold_every_statistic() -> None:
    first = REPORT.rows()[0]
    names = ["time_s", "mean", "low", "high", "sd", "p05", "p50", "p95", "worst", "chips"]
    assert list(first) == names
    assert list(REPORT.rows(0.7)[0]) == [*names[:-1], "yield", "yield_low", "yield_high", "chips"]
    assert (first["low"], first["high"]) == tuple(end[0] for end in REPORT.interval())
    assert first["time_s"] == 1.0
    assert first["p05"] == pytest.approx(0.715)
    assert first["p95"] == pytest.approx(0.985)
    assert first["chips"] == 4


def test_csv_has_one_row_per_time_and_chip(tmp_path: Path) -> None:
    REPORT.to_csv(tmp_path / "report.csv")
    with (tmp_path / "report.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["time_s", "chip", "value"]
    assert [(float(t), int(c), float(v)) for t, c, v in rows[1:]] == [
        (time, chip, REPORT.values[i, chip]) for i, time in enumerate(REPORT.times) for chip in range(4)
    ]


def test_a_report_prints_one_line_per_time() -> None:
    lines = str(REPORT).splitlines()
    assert lines[0] == "4 chip(s), seed 7, compensated per tile"
    assert lines[3].split()[:3] == ["1", "s", "0.8500"]
    assert lines[3].split()[-4:] == ["0.1291", "0.7150", "0.8500", "0.7000"]
    assert lines[4].split()[:3] == ["1", "h", "0.5750"]
    assert "not compensated" in str(Report((0.0,), np.zeros((1, 1)), 0, None))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chips": 0}, "chips = 0"),
        ({"times": ()}, r"times = \(\)"),
        ({"times": (1.0, -1.0)}, r"times = \(1\.0, -1\.0\)"),
        ({"times": (float("nan"),)}, "times = .*nan"),
        ({"times": (1.0, float("inf"))}, "times = .*inf"),
        ({"times": (10.0, 1.0)}, "they must not decrease"),
        ({"compensation": "row"}, "compensation = 'row'"),
        ({"evaluate": lambda chip: float("nan")}, "evaluate returned nan for chip 0 at 0 s"),
        ({"evaluate": lambda chip: None}, "evaluate returned None for chip 0 at 0 s; it must return one finite number"),
        ({"evaluate": lambda chip: "0.9"}, "evaluate returned '0.9' for chip 0 at 0 s"),
        ({"evaluate": lambda chip: torch.ones(2, 4)}, r"evaluate returned a tensor of shape \[2, 4\]"),
        ({"evaluate": lambda chip: float("inf") if now(chip) > 0 else 1.0}, "evaluate returned inf for chip 0 at 1 h"),
    ],
)
def test_impossible_measurements_raise(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(**options)


def test_nets_without_analog_layer_or_with_broken_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="no analog layer"):
        measure(nn.Linear(3, 2))
    module = net()
    with torch.no_grad():
        module[0].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="0 has 1 non-finite"):
        measure(module)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (0.001, "0.001 s"),
        (59.0, "59 s"),
        (90.0, "1.5 min"),
        (36_000.0, "10 h"),
        (86_400.0, "1 day"),
        (172_800.0, "2 days"),
        (2.6e6, "1 month"),
        (3.15e7, "1 year"),
        (3.15e8, "10 years"),
        (3.15e9, "100 years"),
    ],
)
def test_times_are_formatted_in_their_largest_unit(seconds: float, text: str) -> None:
    assert format_time(seconds) == text


@given(seconds=st.floats(1e-3, 1e11))
@example(seconds=99.7 * 3.15e7)
def test_times_are_never_formatted_in_powers_of_ten(seconds: float) -> None:
    assert "e" not in format_time(seconds).split()[0]
