"""The examples of in-memory training on synthetic images, without a network."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.contracts.op import threads

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
_data, mnist_in_memory, reproduce, experiment = (
    importlib.import_module(m) for m in ("_data", "mnist_in_memory", "reproduce", "reproductions.experiment")
)


def made_up(n: int = 300):
    """Ten noisy patterns in the format of MNIST."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(10, 28, 28, generator=generator)
    labels = torch.arange(n) % 10
    images = patterns[labels] * 255.0 * (0.8 + 0.2 * torch.rand(n, 28, 28, generator=generator))
    images = images.to(torch.uint8)
    return _data.Mnist(images, labels, images[:100], labels[:100])


@pytest.mark.parametrize("algorithm", ["sgd", "mixed-precision"])
def test_trains_in_memory_and_in_float(
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
def test_a_reproduction_writes_results_and_figure(name: str, tmp_path: Path) -> None:
    whole = reproduce.EXPERIMENTS[name]
    experiment = replace(whole, layers=(whole.layers[0], 16, 10), epochs=2)
    reproduce.run(name, experiment, made_up(), [0, 1], tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert [row["method"] for row in result["rows"]] == ["float", *(m.name for m in experiment.methods)]
    assert result["float"] == result["rows"][0]["mean"]
    assert all(len(row["accuracies"]) == 2 for row in result["rows"])
    assert all(("train" in row) == experiment.on_training for row in result["rows"])
    assert result["chosen"]
    assert (tmp_path / "result.png").stat().st_size > 0


def small(**fields: object):
    return replace(reproduce.EXPERIMENTS["gokmen-vlasov-2016"], layers=(784, 16, 10), epochs=2, **fields)


def test_parallel_runs_equal_sequential_runs(tmp_path: Path) -> None:
    with threads(1):
        for jobs in (1, 2):
            reproduce.run("x", small(), made_up(), [0, 1], tmp_path / str(jobs), jobs)
    one, two = (json.loads((tmp_path / jobs / "result.json").read_text()) for jobs in "12")
    assert one == two


def test_a_crop_is_the_centre_of_an_image() -> None:
    images = torch.arange(28 * 28).view(1, 28, 28).remainder(256).to(torch.uint8)
    pixels = small(crop=(24, 22)).pixels(images) * 255.0
    torch.testing.assert_close(pixels, images[:, 2:26, 3:25].float())


def test_each_method_has_its_own_rate_and_uses_the_first_images() -> None:
    seen = []

    def optimiser(parameters: object, lr: float) -> torch.optim.Optimizer:
        seen.append(lr)
        return torch.optim.SGD(parameters, lr=lr)  # type: ignore[arg-type]

    method = replace(experiment.FLOAT, optimiser=optimiser)
    data = made_up()
    changed = data._replace(train_images=torch.cat((data.train_images[:100], 255 - data.train_images[100:])))
    runs = [
        experiment.train(small(images=100, on_training=True), m, 0, d)
        for m, d in ((method, data), (method, changed), (replace(method, lr=0.7), data))
    ]
    assert seen == [0.1, 0.1, 0.7]
    assert runs[0] == runs[1] != runs[2]


def test_held_out_images_are_the_last_of_the_training_images() -> None:
    data = made_up()
    held = reproduce.held_out(data, 50)
    assert torch.equal(held.test_images, data.train_images[250:])
    assert torch.equal(held.train_labels, data.train_labels[:250])


def test_a_trial_is_written_to_another_folder_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "mnist", lambda folder: made_up())
    monkeypatch.setattr(reproduce, "EXPERIMENTS", {"small": small()})
    monkeypatch.setattr(sys, "argv", "x small --seeds 3 --hold-out 50 --lr 0.02".split())
    reproduce.main()
    result = json.loads((tmp_path / "out/held_out/small/result.json").read_text())
    assert result["command"] == "python examples/reproduce.py small --seeds 3 --hold-out 50 --lr 0.02"
    assert result["learning_rates"] == {"float": 0.1, "stochastic pulses": 0.02}
    assert not (tmp_path / "docs").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x no-such", "no experiment no-such"),
        ("x --jobs 0", "--jobs 0: it must be at least 1"),
        ("x --lr 0.1", "not on the test images"),
    ],
)
def test_an_impossible_command_is_named(
    line: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", line.split())
    with pytest.raises(SystemExit):
        reproduce.parse()
    assert message in capsys.readouterr().err
