"""The examples of training in the memory, on images that are made up. No network."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
_data, mnist_in_memory, reproduce = (importlib.import_module(m) for m in ("_data", "mnist_in_memory", "reproduce"))


def made_up(n: int = 300):
    """Ten patterns under noise, as MNIST's files hold images."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(10, 28, 28, generator=generator)
    labels = torch.arange(n) % 10
    images = patterns[labels] * 255.0 * (0.8 + 0.2 * torch.rand(n, 28, 28, generator=generator))
    images = images.to(torch.uint8)
    return _data.Mnist(images, labels, images[:100], labels[:100])


@pytest.mark.parametrize("algorithm", ["sgd", "mixed-precision"])
def test_trains_beside_float(
    algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mnist_in_memory, "mnist", lambda folder: made_up())
    line = f"x --device constant --algorithm {algorithm} --layers 784 16 10 --epochs 2 --out {tmp_path}"
    monkeypatch.setattr(sys, "argv", line.split())
    mnist_in_memory.main()
    report = json.loads((tmp_path / "report.json").read_text())
    assert {k: len(v) for k, v in report["accuracy"].items()} == {"float": 2, "constant": 2}
    assert "in memory" in capsys.readouterr().out


@pytest.mark.parametrize("name", reproduce.EXPERIMENTS)
def test_a_reproduction_keeps_figures_and_picture(name: str, tmp_path: Path) -> None:
    experiment = replace(reproduce.EXPERIMENTS[name], layers=(784, 16, 10), epochs=2)
    reproduce.run(name, experiment, made_up(), [0, 1], tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert [row["method"] for row in result["rows"]] == ["float", experiment.method]
    assert all(len(row["accuracies"]) == 2 for row in result["rows"])
    assert (tmp_path / "result.png").stat().st_size > 0


def test_an_unknown_experiment_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "no-such"])
    with pytest.raises(SystemExit):
        reproduce.parse()
    assert "no experiment no-such" in capsys.readouterr().err
