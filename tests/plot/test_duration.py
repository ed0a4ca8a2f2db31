"""The figure of capacitors shows their charge."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import phasegrad as pg
from phasegrad.crossbar import Integrator

pytest.importorskip("matplotlib")


def test_charges_are_drawn_into_a_file(tmp_path: Path) -> None:
    path = tmp_path / "charges.png"
    kinds = {"ideal": Integrator(), "leak": Integrator(window=1.0, tau=1.0), "bound": Integrator(saturation=1.0)}
    course, ends = pg.plot.charges(kinds, path, lines=1, vectors=20).axes
    assert path.stat().st_size > 10_000
    ideal, leak, bound = (np.asarray(line.get_ydata()) for line in ends.lines)
    amplitudes = np.asarray(ends.lines[0].get_xdata())
    np.testing.assert_allclose(ideal, amplitudes, atol=1e-3)
    assert (np.abs(leak) < np.abs(ideal)).all()
    assert np.abs(bound).max() <= 1.0
    assert [line.get_label() for line in course.lines] == list(kinds)
    assert math.isclose(course.lines[0].get_ydata()[-1], ideal[-1], abs_tol=1e-6)
