"""Every example, run like its command on a small subset of its real data from the cache."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

import phasegrad as pg

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
_data, _fetch = (importlib.import_module(m) for m in ("_data", "_fetch"))

pytestmark = pytest.mark.example


in_memory = pytest.mark.skipif(
    not pg.backends()["cpu"].startswith("native"), reason="in-memory training takes minutes on the torch reference"
)


def cached(data: object) -> None:
    """Skip the test unless a data set is in the cache."""
    folder = _fetch.cache_folder() / data.name
    if _fetch.faults(data, folder):
        pytest.skip(f"{data.name} is not in the cache: run `python examples/_data.py --fetch {data.name}`")


def sliced(data: tuple, train: int, test: int):
    """The first images of both parts of a data set."""
    return type(data)(data[0][:train], data[1][:train], data[2][:test], data[3][:test])


def run(example: ModuleType, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run an example as ``python examples/EXAMPLE.py LINE`` does."""
    monkeypatch.setattr(sys, "argv", [f"{example.__name__}.py", *line.split()])
    example.main()


def report(folder: Path) -> dict:
    """The report of an example, after a check of its table and figure."""
    content = json.loads((folder / "report.json").read_text())
    with (folder / "report.csv").open() as file:
        values = list(csv.DictReader(file))
    assert {row["method"] for row in values} == {row["method"] for row in content["rows"]}
    assert (folder / "report.png").stat().st_size > 10_000
    return content


@pytest.fixture
def mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """1,280 training and 200 test images, and a cache without trained weights."""
    cached(_data.MNIST)
    data = sliced(_data.mnist(), 1280, 200)
    monkeypatch.setenv("PHASEGRAD_CACHE", str(tmp_path / "cache"))
    return data


def test_mnist(mnist: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = importlib.import_module("mnist")
    monkeypatch.setattr(example, "mnist", lambda folder: mnist)
    run(example, f"--epochs 1 --chips 2 --times 1 3e7 --quiet --out {tmp_path}", monkeypatch)
    result = report(tmp_path)
    assert result["float"] > 0.6
    after = {row["method"]: row["mean"] for row in result["rows"] if row["time_s"] > 1e7}
    assert after["hwa+gdc"] > result["float"] - 0.15


@in_memory
def test_mnist_in_memory(mnist: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = importlib.import_module("mnist_in_memory")
    monkeypatch.setattr(example, "mnist", lambda folder: mnist)
    run(example, f"--layers 784 32 10 --epochs 2 --batch 5 --lr 0.2 --out {tmp_path}", monkeypatch)
    result = json.loads((tmp_path / "report.json").read_text())["accuracy"]
    assert min(result["float"][-1], result["constant"][-1]) > 0.5


def test_design_space(mnist: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = importlib.import_module("design_space")
    monkeypatch.setattr(example, "mnist", lambda folder: mnist)
    run(example, f"--bits 2 8 --rows 64 --ohms 0 --chips 1 --test-images 200 --quiet --out {tmp_path}", monkeypatch)
    with (tmp_path / "design_space.csv").open() as file:
        by_bits = {row["adc_bits"]: float(row["accuracy"]) for row in csv.DictReader(file)}
    assert by_bits["8"] > by_bits["2"]


@in_memory
def test_reproduce(mnist: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = importlib.import_module("reproduce")
    monkeypatch.setattr(example, "mnist", lambda folder: mnist)
    run(example, f"boybat-2018 --seeds 0 --out {tmp_path}", monkeypatch)
    result = json.loads((tmp_path / "boybat-2018" / "result.json").read_text())
    assert result["float"] > 0.6


def test_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    cached(_data.CIFAR10)
    example = importlib.import_module("cifar10")
    data = sliced(_data.cifar10(), 1024, 200)
    monkeypatch.setattr(example, "cifar10", lambda folder: data)
    line = "--depth 8 --width 8 --float-epochs 4 --epochs 1 --batch 64 --chips 1 --times 1 3e7 --quiet"
    run(example, f"{line} --runs {tmp_path / 'runs'} --out {tmp_path}", monkeypatch)
    result = report(tmp_path)
    assert result["float"] > 0.2
    assert {row["method"] for row in result["rows"]} >= {"converted", "hwa+gdc+bn"}
    assert result["fine_tuning_minutes"] > 0
    first = capsys.readouterr().out
    run(example, f"{line} --runs {tmp_path / 'runs'} --out {tmp_path / 'again'}", monkeypatch)
    assert report(tmp_path / "again")["rows"] == result["rows"]  # finished trainings are not repeated
    assert "fine-tuned for the hardware in" in first


def test_char_lstm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(_data.MOBY_DICK)
    example = importlib.import_module("char_lstm")
    line = "--characters 60000 --hidden 48 --float-epochs 2 --epochs 1 --batch 16 --pairs 1 --chips 1 --times 1 3e7"
    run(example, f"{line} --quiet --runs {tmp_path / 'runs'} --out {tmp_path}", monkeypatch)
    result = report(tmp_path)
    assert result["float"] < 30.0  # of at most 83 characters
    after = {row["method"]: row["mean"] for row in result["rows"] if row["time_s"] > 1e7}
    assert after["hwa+gdc, 1 pair"] < 1.5 * result["float"]


def test_sentence_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="the encoder is a model of transformers, which is not installed")
    cached(_data.MINILM)
    cached(_data.MOBY_DICK)
    example = importlib.import_module("sentence_encoder")
    line = "--train-sentences 64 --test-sentences 50 --batch 8 --epochs 1 --pairs 1 --chips 1 --times 1 --quiet"
    run(example, f"{line} --runs {tmp_path / 'runs'} --out {tmp_path}", monkeypatch)
    value = {row["method"]: row["mean"] for row in report(tmp_path)["rows"]}
    assert value["hwa+gdc, 1 pair"] > value["converted+gdc, 1 pair"] > 0.5
