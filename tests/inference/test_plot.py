"""The figure of accuracy over time shows the values of the reports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import phasegrad as pg
from phasegrad.inference import Report

matplotlib = pytest.importorskip("matplotlib")
TIMES = (0.0, 1.0, 3600.0, 3.15e7)
REPORT = Report(TIMES, np.linspace(0.5, 1.0, 12).reshape(4, 3)[::-1], 0, "tile")
OTHER = Report(TIMES, np.full((4, 2), 0.25), 0, None)


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_a_report_is_drawn_into_a_file(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"report.{ending}"
    REPORT.plot(path, label="PCM", reference=0.99, title="a title")
    assert path.stat().st_size > 3000
    start = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[ending]
    assert path.read_bytes().startswith(start)


def test_curve_and_band_are_mean_and_percentiles_over_chips() -> None:
    axes = REPORT.plot().axes[0]
    curve = axes.lines[0]
    np.testing.assert_allclose(curve.get_ydata(), 100 * REPORT.mean())
    np.testing.assert_allclose(curve.get_xdata()[1:], TIMES[1:])
    assert curve.get_xdata()[0] > 0  # a logarithmic axis cannot show zero
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert heights.max() == pytest.approx(100 * REPORT.quantile(0.95).max())
    assert heights.min() == pytest.approx(100 * REPORT.quantile(0.05).min())


def test_several_reports_share_a_figure_with_labels_and_units() -> None:
    reports = {"one": REPORT, "other": OTHER}
    axes = pg.plot.over_time(reports, reference=0.5, reference_label="before", ylabel="score", percent=False).axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["one", "other", "before"]
    assert axes.get_ylabel() == "score"
    assert axes.get_xlabel() == "time since programming"
    np.testing.assert_allclose(axes.lines[1].get_ydata(), 0.25)


def test_a_figure_is_drawn_into_existing_axes() -> None:
    figure = matplotlib.figure.Figure()
    axes = figure.subplots()
    assert REPORT.plot(ax=axes) is figure
    assert len(axes.lines) == 1
