"""Figures of correlated noise and of projected devices show their laws."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import phasegrad as pg

pytest.importorskip("matplotlib")

DEVICE = dataclasses.replace(pg.devices.joshi_2020(), correlated_noise=pg.devices.CorrelatedNoise())


def test_noise_is_drawn_into_a_file(tmp_path: Path) -> None:
    pg.plot.noise_over_time(DEVICE, tmp_path / "noise.png")
    assert (tmp_path / "noise.png").stat().st_size > 50_000


def test_the_sampled_covariance_follows_the_drawn_law() -> None:
    lags = pg.plot.noise_over_time(DEVICE).axes[3]
    sampled, law = (dict(zip(*(np.asarray(v) for v in line.get_data()), strict=True)) for line in lags.lines[:2])
    shared = [t for t in sampled if t in law]
    assert len(shared) > 40
    for t in shared:  # sampled from 4,000 devices
        assert sampled[t] == pytest.approx(law[t], abs=5.0 * np.sqrt(2.0 / 4000))


def test_telegraph_noise_alone_is_drawn(tmp_path: Path) -> None:
    telegraph = pg.devices.Telegraph(fraction=0.5, amplitude=0.1, rates=(1.0, 1e3))
    pg.plot.noise_over_time(dataclasses.replace(pg.devices.ideal_device(), telegraph=telegraph), tmp_path / "t.png")
    assert (tmp_path / "t.png").stat().st_size > 20_000


def test_a_figure_of_a_device_shows_the_noise_at_its_age() -> None:
    percent = np.asarray(pg.plot.device_statistics(DEVICE).axes[2].lines[0].get_ydata())[-1]
    assert percent == pytest.approx(0.0088 * np.sqrt(np.log((3600 + 20) / 500e-9)) * 100, rel=0.05)


def test_curves_of_projection_follow_the_laws_of_the_devices(tmp_path: Path) -> None:
    figure = pg.plot.projection(pg.devices.joshi_2020(), tmp_path / "projection.png")
    assert (tmp_path / "projection.png").stat().st_size > 20_000
    drift, noise, cost = figure.axes
    at_reset = [float(np.asarray(line.get_ydata())[0]) for line in drift.lines]
    liners = (0.0, 0.2e-6, 1e-6, 5e-6)
    lined = [pg.devices.projected(pg.devices.joshi_2020(), liner=liner) for liner in liners]
    assert at_reset == pytest.approx([float(d.nu_mean.value[0]) for d in lined], rel=1e-4)
    assert len(noise.lines) == 4
    window = np.asarray(cost.lines[2].get_ydata())
    assert window[-1] == pytest.approx(lined[-1].g_max / lined[-1].g_min / 250.0, rel=1e-6)


def test_a_device_without_read_noise_has_no_noise_curve() -> None:
    quiet = dataclasses.replace(pg.devices.joshi_2020(), read_noise=None)
    _, noise, cost = pg.plot.projection(quiet).axes
    assert len(noise.lines) == 0
    assert [line.get_label() for line in cost.lines] == ["ν of RESET", "window"]
