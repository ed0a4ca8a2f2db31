"""The design-space example on synthetic images, without a network."""

from __future__ import annotations

import csv
import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
_data, _lenet, design_space = (importlib.import_module(m) for m in ("_data", "_lenet", "design_space"))


def made_up(n: int = 400):
    """Ten noisy patterns in the format of MNIST."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 10
    patterns = torch.rand(10, 28, 28, generator=generator)
    images = patterns[labels] * 255.0 * (0.8 + 0.2 * torch.rand(n, 28, 28, generator=generator))
    images = images.to(torch.uint8)
    return _data.Mnist(images.unsqueeze(1), labels, images[:100].unsqueeze(1), labels[:100])


def trained(data: object, **_: object) -> nn.Module:
    """A net trained on the patterns."""
    torch.manual_seed(0)
    net = _lenet.LeNet()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(_lenet.normalise(data.train_images)), data.train_labels)
        loss.backward()
        optimizer.step()
    return net


def test_every_point_is_measured_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(design_space, "mnist", lambda folder: made_up())
    monkeypatch.setattr(design_space, "train_float", trained)
    line = f"x --bits 2 8 --rows 64 --ohms 0 5000 --chips 2 --test-images 100 --out {tmp_path}"
    monkeypatch.setattr(sys, "argv", line.split())
    design_space.main()
    with (tmp_path / "design_space.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 1 * 2 * 2
    by_point = {(row["wire_ohm"], row["adc_bits"]): float(row["accuracy"]) for row in rows if row["chip"] == "0"}
    assert by_point["0.0", "8"] > 0.9
    assert by_point["5000.0", "8"] < by_point["0.0", "8"]
    assert (tmp_path / "design_space.png").stat().st_size > 10_000
    assert "ohms=5000.0" in capsys.readouterr().out
