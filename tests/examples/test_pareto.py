"""The example of accuracy against energy, on made-up images, without a network."""

from __future__ import annotations

import csv
import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
_data, _lenet, _resnet, pareto = (importlib.import_module(m) for m in ("_data", "_lenet", "_resnet", "pareto"))


def made_up(kind: type, shape: tuple[int, ...], n: int = 200):
    """Ten noisy patterns in the format of a data set."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 10
    patterns = torch.rand(10, *shape, generator=generator)
    images = patterns[labels] * 255.0 * (0.8 + 0.2 * torch.rand(n, *shape, generator=generator))
    images = images.to(torch.uint8)
    return kind(images, labels, images[:100], labels[:100])


def fitted(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    """A net that knows the patterns."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def trained() -> tuple[object, nn.Module]:
    """Made-up digits, and a net that knows them."""
    digits = made_up(_data.Mnist, (1, 28, 28))
    return digits, fitted(_lenet.LeNet(), _lenet.normalise(digits.train_images), digits.train_labels)


@pytest.fixture
def example(trained: tuple[object, nn.Module], monkeypatch: pytest.MonkeyPatch):
    """The example with both data sets made up."""
    (digits, net), photos = trained, made_up(_data.Cifar10, (3, 32, 32))
    monkeypatch.setattr(pareto, "mnist", lambda folder: digits)
    monkeypatch.setattr(pareto, "cifar10", lambda folder: photos)
    monkeypatch.setattr(pareto._lenet, "train_float", lambda data, **_: net)
    return pareto


def run(example, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pareto.py", *line.split()])
    example.main()


@pytest.mark.slow
def test_every_point_is_measured_priced_and_drawn(
    example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    line = f"--bits 2 8 --sizes 64 --devices 2 4 --chips 1 --test-images 50 --calibration 1 --out {tmp_path}"
    line += f" --depth 8 --width 4 --float-epochs 1 --train-images 128 --runs {tmp_path / 'runs'} --quiet"
    run(example, line, monkeypatch)
    with (tmp_path / "pareto.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 2
    digits = {(row["adc_bits"], row["devices_per_weight"]): row for row in rows if "MNIST" in row["network"]}
    assert float(digits["8", "4"]["accuracy"]) > 0.9
    assert float(digits["2", "2"]["accuracy"]) < float(digits["8", "2"]["accuracy"])
    assert float(digits["2", "2"]["energy_J"]) < float(digits["8", "2"]["energy_J"])
    assert float(digits["8", "2"]["energy_J"]) < float(digits["8", "4"]["energy_J"])
    assert digits["8", "2"]["tiles"] == digits["8", "4"]["tiles"]
    assert any(row["on_front"] == "1" for row in rows)
    assert (tmp_path / "pareto.png").stat().st_size > 10_000
    assert "uJ per image" in capsys.readouterr().out


def test_the_front_is_what_nothing_beats(example) -> None:
    class Made(example.Result):
        @property
        def energy(self) -> float:
            return self.estimate  # type: ignore[return-value]

    points = [(0.9, 3.0), (0.8, 2.0), (0.85, 4.0), (0.7, 1.0), (0.7, 0.5), (0.9, 5.0)]
    results = [Made("a", example.Point(8, 64, 2), (accuracy,), energy) for accuracy, energy in points]
    assert [(r.accuracy, r.energy) for r in example.front(results)] == [(0.7, 0.5), (0.8, 2.0), (0.9, 3.0)]


def test_quick_takes_a_small_grid_and_can_be_changed(example, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pareto.py", "--quick", "--bits", "6"])
    options = example.parse()
    assert (options.bits, options.sizes, options.chips, options.depth) == ([6], [64, 256], 1, 8)
    monkeypatch.setattr(sys, "argv", ["pareto.py", "--devices", "3"])
    with pytest.raises(SystemExit):
        example.parse()
