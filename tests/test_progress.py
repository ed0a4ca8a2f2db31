"""Progress is a bar on a terminal, a few lines in a pipe, and nothing if it is off."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from phasegrad import progress
from phasegrad.progress import SECONDS_PER_LINE, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_terminal_shows_a_bar_and_clears_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with track(100, unit="batch", label="fitting") as bar:
        bar.describe("fitting, epoch 1/1")
        bar.values(loss="0.5")
        bar.update(100)
    shown = stream.getvalue()
    assert "fitting, epoch 1/1" in shown
    assert "\r" in shown
    assert "\n" not in shown
    assert shown.endswith("\r")


def test_notebook_counts_as_interactive() -> None:
    stream_of_a_kernel = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})
    assert progress.interactive(stream_of_a_kernel())
    assert not progress.interactive(io.StringIO())


def test_pipe_gets_one_line_for_many_quick_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with open(reading) as end, open(writing, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with track(10_000, unit="batch", label="fitting") as bar:
            for _ in range(10_000):
                bar.update()
        stream.close()
        shown = end.read()
    assert shown.startswith("fitting: 10,000/10,000 batch (100%), 00:0")
    assert shown.count("\n") == 1
    assert "\r" not in shown


def test_lines_show_progress_rate_and_remaining_time() -> None:
    stream, clock = io.StringIO(), Clock()
    lines = progress._Lines(stream, 10_000, "batch", "fitting", 1000, clock)
    with lines:
        for _ in range(9000):
            clock.now += 0.01
            lines.values(loss="0.25")
            lines.update()
    # 90 s at 100 batches per second: two lines on the way, one at 90 s, one at the end.
    assert stream.getvalue().splitlines()[0] == (
        "fitting: 4,000/10,000 batch (40%), 00:30 elapsed, 100 batch/s, 01:00 left, loss=0.25"
    )
    assert len(stream.getvalue().splitlines()) <= 90 / SECONDS_PER_LINE + 1
    assert stream.getvalue().splitlines()[-1].startswith("fitting: 10,000/10,000 batch (100%), 01:30 elapsed")


def test_unknown_total_shows_no_remaining_time() -> None:
    stream, clock = io.StringIO(), Clock()
    with progress._Lines(stream, None, "batch", "", 0, clock) as lines:
        clock.now = 2.0
        lines.update(10)
    assert stream.getvalue() == "10 batch, 00:02 elapsed, 5 batch/s\n"


def test_interrupted_loop_shows_where_it_stopped() -> None:
    stream = io.StringIO()

    def read() -> None:
        with progress._Lines(stream, 10, "read", "chip 1/2", 0) as lines:
            lines.update(4)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read()
    assert stream.getvalue().startswith("chip 1/2: 4/10 read (40%)")


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_nothing_is_written_if_progress_is_off(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    with track(10, unit="batch", shown=False) as bar:
        bar.describe("fitting")
        bar.values(loss="1")
        bar.update(10)
    assert stream.getvalue() == ""


class WithoutTerminal:
    """A stream that forwards to a logger, as libraries install."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


class Closed(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("stream", [WithoutTerminal(), Closed(), None])
def test_a_stream_that_cannot_show_progress_does_not_end_the_loop(stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    with track(10, unit="batch") as bar:
        bar.update(10)
    if isinstance(stream, WithoutTerminal):
        assert stream.text.startswith("10/10 batch (100%)")


def test_only_the_progress_module_imports_tqdm() -> None:
    root = Path(__file__).parents[1]
    files = [*(root / "src").rglob("*.py"), *(root / "examples").rglob("*.py")]
    assert [f.name for f in files if "import tqdm" in f.read_text(encoding="utf-8")] == ["progress.py"]
