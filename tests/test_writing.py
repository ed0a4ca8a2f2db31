"""Files are written completely or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import phasegrad as pg
from phasegrad import plot, writing
from phasegrad.inference import Report, export_onnx


def report() -> Report:
    net = pg.convert(nn.Sequential(nn.Linear(4, 2)), pg.presets.pcm_inference())
    return pg.inference.accuracy_over_time(net, lambda chip: 0.5, times=(1.0, 60.0), chips=2, seed=0)


WRITERS: dict[str, Callable[[Any], Any]] = {
    "report as CSV": lambda path: report().to_csv(path),
    "report as a picture": lambda path: report().plot(path),
    "picture of a device": lambda path: plot.device_statistics(pg.devices.joshi_2020(), path, samples=50),
    "safetensors": lambda path: pg.checkpoint.export_safetensors(nn.Linear(2, 2), path),
    "checkpoint": lambda path: pg.checkpoint.save(path, x=1),
    "ONNX": lambda path: export_onnx(
        pg.convert(nn.Sequential(nn.Linear(4, 2)), pg.presets.pcm_inference()), (torch.ones(1, 4),), path
    ),
}
PARAMETERS = [pytest.param(name, marks=pytest.mark.slow) if name == "ONNX" else name for name in WRITERS]
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.mark.parametrize("name", PARAMETERS)
def test_what_cannot_be_written_is_refused_by_name_and_nothing_changes(name: str, tmp_path: Path) -> None:
    write = WRITERS[name]
    for wrong in (None, 3, b"a.png", np.ones(1)) if "picture" not in name else (3, b"a.png", np.ones(1)):
        with pytest.raises(TypeError, match=r": path = .*it must be a path"):
            write(wrong)
    with pytest.raises(IsADirectoryError, match="path is a folder; add the name of a file"):
        write(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"'.*nowhere' does not exist; create it first"):
        write(tmp_path / "nowhere" / "a.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_failed_write_keeps_the_file_as_it_was(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, write = tmp_path / "a.png", WRITERS[name]
    write(file)
    before = file.read_bytes()
    assert len(before) > 20
    assert [found.name for found in tmp_path.iterdir()] == ["a.png"]

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.Sink, "_write_all", fail)
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left on device"):
        write(str(file))
    assert file.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["a.png"]


def test_the_csv_is_that_of_the_report(tmp_path: Path) -> None:
    report().to_csv(tmp_path / "a.csv")
    lines = (tmp_path / "a.csv").read_bytes().split(b"\r\n")
    assert lines == [b"time_s,chip,value", b"1.0,0,0.5", b"1.0,1,0.5", b"60.0,0,0.5", b"60.0,1,0.5", b""]


def test_a_report_follows_a_link_and_writes_to_what_is_no_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "target.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to(tmp_path / "target.csv")
    report().to_csv(tmp_path / "link.csv")
    assert (tmp_path / "target.csv").read_text().startswith("time_s")
    report().to_csv(os.devnull)
    assert not Path(os.devnull).is_file()
    with pytest.raises(OSError, match="this is no file"):
        pg.checkpoint.save(os.devnull, x=1)


def test_a_picture_without_an_ending_is_a_png(tmp_path: Path) -> None:
    report().plot(tmp_path / "a")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="xyz"):
        report().plot(tmp_path / "a.xyz")
    assert [found.name for found in tmp_path.iterdir()] == ["a.png"]
