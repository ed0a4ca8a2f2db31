"""The example of years of drift, on made-up images, and the statistics of its results."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
_data, _years, years = (importlib.import_module(name) for name in ("_data", "_years", "years"))


def made_up(n: int = 300):
    """Ten noisy patterns in the format of MNIST."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 10
    patterns = torch.rand(10, 1, 28, 28, generator=generator)
    images = patterns[labels] * 255.0 * (0.6 + 0.4 * torch.rand(n, 1, 28, 28, generator=generator))
    images = images.to(torch.uint8)
    return _data.Mnist(images, labels, images[:100], labels[:100])


def test_quick_run_writes_every_training_and_compensation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(years, "DATA", {"mnist": lambda folder: made_up()})
    years.main(["--quick", "--data-sets", "mnist", "--out", str(tmp_path)])
    content = json.loads((tmp_path / "result.json").read_text())
    assert content["command"] == f"python examples/years.py --quick --data-sets mnist --out {tmp_path}"
    found = {(row["training"], row["compensation"], row["time_s"]) for row in content["rows"]}
    assert len(found) == len(years.TRAININGS) * 3 * 2
    assert all(0.0 <= row["mean"] <= row["worst"] <= 1.0 and row["chips"] == 2 for row in content["rows"])
    assert {row["than"] for row in content["saved_by_drift_aware"]} == set(years.NOISE)
    with (tmp_path / "result.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(content["rows"])
    assert (tmp_path / "result.png").stat().st_size > 10_000


def test_intervals_cover_the_mean_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    trials, covered = 2000, 0
    for _ in range(trials):
        values = rng.normal(size=(5, 1)) + 0.1 * rng.normal(size=(5, 8))  # nets differ more than chips
        low, high = _years.interval(values)
        covered += low <= 0.0 <= high
    assert abs(covered / trials - 0.95) < 4.5 * (0.95 * 0.05 / trials) ** 0.5


def test_savings_compare_nets_with_themselves() -> None:
    base = np.arange(5.0).reshape(5, 1, 1) * np.ones((5, 2, 3))
    errors = {("hardware-aware", "tile"): base + 1.0, ("drift-aware", "tile"): base}
    rows = _years.savings("mnist", errors, (1.0, 2.0), "drift-aware", ["hardware-aware"])
    assert [(row["saved"], row["low"], row["high"]) for row in rows] == [(1.0, 1.0, 1.0)] * 2
