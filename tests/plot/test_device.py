"""The figure of a device shows its statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import phasegrad as pg

pytest.importorskip("matplotlib")


def test_device_statistics_are_drawn_into_a_file(tmp_path: Path) -> None:
    path = tmp_path / "device.png"
    pg.plot.device_statistics(pg.devices.joshi_2020(), path, samples=50)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000


def test_curves_follow_the_devices_laws() -> None:
    programmed, drift, reads = pg.plot.device_statistics(pg.devices.joshi_2020(), samples=2000).axes
    targets, means = programmed.lines[0].get_data()
    np.testing.assert_allclose(np.asarray(means)[4:], np.asarray(targets)[4:], atol=0.15)
    times, conductance = (np.asarray(values) for values in drift.lines[0].get_data())
    np.testing.assert_allclose(conductance, 25.0 * ((times + 20) / 20) ** -0.049, rtol=0.02)
    percent = np.asarray(reads.lines[0].get_ydata())[-1]
    expected = 0.0088 * np.sqrt(np.log((3600 + 20) / 500e-9)) * 100
    assert percent == pytest.approx(expected, rel=0.1)


def test_an_ideal_device_is_drawn_without_warnings(tmp_path: Path) -> None:
    pg.plot.device_statistics(pg.devices.ideal_device(), tmp_path / "ideal.png", samples=20)
    assert (tmp_path / "ideal.png").stat().st_size > 10_000


def test_figures_are_a_function_of_their_seed() -> None:
    one, same, other = (
        np.asarray(pg.plot.device_statistics(pg.devices.joshi_2020(), samples=50, seed=s).axes[0].lines[0].get_ydata())
        for s in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
