"""Figures of converters and slices show the measured values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import phasegrad as pg
from phasegrad.crossbar import Adc, RampAdc

pytest.importorskip("matplotlib")


def test_linearity_is_drawn_with_one_row_per_converter(tmp_path: Path) -> None:
    adcs = {"ideal": Adc(bits=8), "ramp": RampAdc(bits=8, curvature=2.0)}
    figure = pg.plot.linearity(adcs, tmp_path / "converters.png")
    assert (tmp_path / "converters.png").read_bytes().startswith(b"\x89PNG")
    assert len(figure.axes) == 6
    ideal, bent = (np.asarray(figure.axes[i].lines[0].get_ydata()) for i in (2, 5))
    assert np.abs(ideal).max() < 0.05
    assert bent.max() == pytest.approx(2.0, rel=0.05)


def test_error_of_slices_falls_with_the_bits_of_the_converters(tmp_path: Path) -> None:
    path, ideal = tmp_path / "slices.png", pg.presets.ideal_inference()
    figure = pg.plot.slices(ideal, path, counts=(1, 2), resolutions=(4, 6, 8))
    assert path.stat().st_size > 10_000
    for line in figure.axes[0].lines:
        errors = np.asarray(line.get_ydata())
        assert (errors[1:] < errors[:-1] / 2).all()
