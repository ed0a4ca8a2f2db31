"""The projected device against its circuit, solved and differentiated independently."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from tests.devices.test_pcm import PcmContract
from tests.physics.pcm_law import JOSHI_2020, PcmLaw

import phasegrad as pg
from phasegrad.cells import (
    DifferentialPair,
    DifferentialSlices,
    MultiMemristive,
    OffsetSlices,
    ReferencedDevice,
    SignificancePairs,
)
from phasegrad.devices import PCM, Thermal, ideal_device, joshi_2020, projected
from phasegrad.testing import SEED

LINER, RESET, G_MAX, CRYSTALLINE = 1.9e-6, 0.1e-6, 25e-6, 50e-6
OF_RESET = 1.0 / RESET - 1.0 / CRYSTALLINE  # resistance of the longest plug [Ohm]


def circuit(plug: np.ndarray, length: np.ndarray, liner: float) -> np.ndarray:
    """Conductance [S] of the crystalline part, and a plug [Ohm] in parallel with a liner of the same length."""
    beside = liner / length
    return 1.0 / (1.0 / CRYSTALLINE + 1.0 / (1.0 / plug + beside))


LOWEST = float(circuit(np.float64(OF_RESET), np.float64(1.0), LINER))


def length_of(g: np.ndarray, liner: float) -> np.ndarray:
    """Length of the plug at conductance ``g G_MAX`` relative to that at RESET, by bisection."""
    low, high = np.full_like(g, 1e-9), np.ones_like(g)
    for _ in range(100):
        middle = 0.5 * (low + high)
        above = circuit(middle * OF_RESET, middle, liner) > g * G_MAX
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return low


def sensitivity(length: np.ndarray, liner: float) -> np.ndarray:
    """``d ln G / d ln G_plug`` by finite differences."""
    plug, h = length * OF_RESET, 1e-5
    return np.log(circuit(plug * (1 - h), length, liner) / circuit(plug * (1 + h), length, liner)) / (2 * h)


def of_circuit(law: Any, g: np.ndarray) -> np.ndarray:
    """Law of the lined device: the law of its plug times the sensitivity of the cell to the plug."""
    length = length_of(np.maximum(np.asarray(g, dtype=np.float64), LOWEST / G_MAX), LINER)
    bare = circuit(length * OF_RESET, length, 0.0) / G_MAX
    return law(bare) / sensitivity(length, 0.0) * sensitivity(length, LINER)


PROJECTED = PcmLaw(
    g_max=25.0,
    t0=20.0,
    t_read=250e-9,
    programming_sd=JOSHI_2020.programming_sd,
    nu_mean=lambda g: of_circuit(JOSHI_2020.nu_mean, g),
    nu_sd=lambda g: of_circuit(JOSHI_2020.nu_sd, g),
    q=lambda g: of_circuit(JOSHI_2020.q, g),
)


class TestProjected(PcmContract):
    law = PROJECTED

    def configuration(self) -> PCM:
        return projected(joshi_2020(), liner=LINER)

    def programmed(self, g: float) -> tuple[float, float]:
        """Programming is clipped at ``g_min`` instead of 0."""
        law = dataclasses.replace(PROJECTED)
        mean, sd = self.spread(lambda x: np.maximum(g * 25.0 + law.programming_sd(np.float64(g)) * x, LOWEST * 1e6))
        return mean * 1e-6, sd * 1e-6


@pytest.mark.parametrize("law", ["nu_mean", "nu_sd", "read_noise"])
def test_laws_are_those_of_the_circuit(law: str) -> None:
    device = projected(joshi_2020(), liner=LINER)
    g = np.geomspace(LOWEST / G_MAX * 1.0001, 0.9999, 301)
    wanted = {"nu_mean": PROJECTED.nu_mean, "nu_sd": PROJECTED.nu_sd, "read_noise": PROJECTED.q}[law](g)
    got = getattr(device, law)(torch.tensor(g)).numpy()
    assert np.abs(got / wanted - 1.0).max() < 0.01  # interpolation between 49 points, with kinks of the law in between


def test_the_window_is_that_of_the_circuit() -> None:
    device = projected(joshi_2020(), liner=LINER)
    assert device.g_min == pytest.approx(LOWEST, rel=1e-12)
    assert device.g_max == G_MAX
    assert G_MAX / device.g_min == pytest.approx(13.0, abs=0.05)
    assert bool((device.program(torch.zeros(1000), SEED, 0).conductance >= device.g_min).all())


def test_no_liner_leaves_the_device_and_says_where_reset_is() -> None:
    device, bare = projected(joshi_2020(), liner=0.0), joshi_2020()
    g = torch.logspace(-2.3, 0, 100, dtype=torch.float64)
    assert device.g_min == pytest.approx(RESET)
    torch.testing.assert_close(device.nu_mean(g), bare.nu_mean(g), rtol=5e-3, atol=0.0)
    assert bare.read_noise is not None
    assert device.read_noise is not None
    torch.testing.assert_close(device.read_noise(g), bare.read_noise(g), rtol=1e-2, atol=0.0)


def test_one_number_takes_drift_noise_and_window_down_together() -> None:
    """The exponent of RESET is about 0.1 without a liner and below 0.01 with a strong one, which narrows the window."""
    devices = [projected(joshi_2020(), liner=liner) for liner in (0.0, 0.3e-6, 0.9e-6, 1.9e-6)]
    at_reset = [torch.tensor(d.g_min / d.g_max) for d in devices]
    nu = [float(d.nu_mean(g)) for d, g in zip(devices, at_reset, strict=True)]
    noise = [float(d.read_noise(g)) for d, g in zip(devices, at_reset, strict=True) if d.read_noise]
    assert nu[0] == pytest.approx(0.1, abs=1e-3)
    assert nu[-1] < 0.01
    for falling in (nu, noise, [d.g_max / d.g_min for d in devices]):
        assert all(b < 0.75 * a for a, b in itertools.pairwise(falling))
    shares = [1.0 / (1.0 + liner * OF_RESET) for liner in (0.0, 0.3e-6, 0.9e-6, 1.9e-6)]
    wanted = [0.1 * s * (s * d.g_min / RESET) for s, d in zip(shares, devices, strict=True)]
    assert nu == pytest.approx(wanted, rel=1e-4)
    assert wanted == pytest.approx([0.1 * s for s in shares], rel=0.04)  # nearly all of the voltage drops over the plug


def test_activation_energies_follow() -> None:
    thermal = Thermal()
    device = projected(dataclasses.replace(joshi_2020(), thermal=thermal), liner=LINER)
    g = np.geomspace(LOWEST / G_MAX * 1.0001, 0.9999, 50)
    assert device.thermal is not None
    got = device.thermal.conductance_energy(torch.tensor(g)).numpy()
    assert np.allclose(got, of_circuit(lambda g: 0.2 - 0.18 * g, g), rtol=5e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"liner": -1e-6}, "projected: liner = -1e-06 S; it must be finite and not negative"),
        ({"liner": float("inf")}, "liner = inf S"),
        ({"liner": 1e-6, "reset": 0.0}, "reset = 0.0 S; it must be above 0 and below g_max = 2.5e-05 S"),
        ({"liner": 1e-6, "reset": 1.0}, "reset = 1.0 S"),
        ({"liner": 1e-6, "crystalline": 2e-5}, "crystalline = 2e-05 S; it must be finite and at least g_max"),
    ],
)
def test_an_impossible_liner_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        projected(joshi_2020(), **options)


def test_a_device_is_projected_once() -> None:
    with pytest.raises(ValueError, match=r"device.g_min = .* S; give a device without a liner"):
        projected(projected(joshi_2020(), liner=1e-6), liner=1e-6)


@pytest.mark.parametrize("g_min", [-1e-6, 25e-6])
def test_an_impossible_least_conductance_is_refused(g_min: float) -> None:
    with pytest.raises(ValueError, match="PCM: g_min = "):
        dataclasses.replace(joshi_2020(), g_min=g_min)


# Cells of devices with ``g_min`` above 0, which never stop conducting.

RAISED = dataclasses.replace(ideal_device(), g_min=5e-6)
CELLS = [
    DifferentialPair(device=RAISED),
    SignificancePairs(device=RAISED, significances=(2.0, 1.0)),
    MultiMemristive(device=RAISED, pairs=2),
    ReferencedDevice(device=RAISED),
    DifferentialSlices(device=RAISED, bits=8, slices=2),
    OffsetSlices(device=RAISED, bits=8, slices=3),
]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: type(cell).__name__)
def test_weights_use_the_window(cell: Any) -> None:
    w = torch.linspace(-1.0, 1.0, 101)
    targets = cell.targets(w)
    assert targets.min().item() == pytest.approx(5e-6)
    assert targets.max().item() == pytest.approx(25e-6)
    rounding = 1e-6 if cell.slice_factors is None else 0.5 / 127 + 1e-6
    torch.testing.assert_close(cell.weight(targets), w, rtol=0.0, atol=rounding)


@pytest.mark.parametrize("cell", [CELLS[0], CELLS[5]], ids=["pairs", "slices"])
def test_a_net_on_such_devices_is_that_on_devices_down_to_nothing(cell: Any) -> None:
    torch.manual_seed(0)
    model, x = torch.nn.Linear(20, 7), torch.randn(5, 20)
    lower = dataclasses.replace(cell, device=ideal_device())
    got, wanted = (pg.inference.program(pg.convert(model, pg.Hardware(cell=c)), seed=0)(x) for c in (cell, lower))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_noise_of_training_is_that_of_the_window() -> None:
    """A weight ``w`` is at ``g_min + w (g_max - g_min)``; its error is relative to that window."""
    device = dataclasses.replace(joshi_2020(), g_min=5e-6)
    hardware = pg.Hardware(cell=DifferentialPair(device=device))
    c0, c1, c2 = pg.hwa.PCMNoise().coefficients(hardware)
    w = torch.linspace(0.0, 1.0, 11)
    g = 0.2 + 0.8 * w
    wanted = (0.26348 + 1.9650 * g - 1.1731 * g**2) / 20.0
    torch.testing.assert_close(c0 + c1 * w + c2 * w**2, wanted, rtol=1e-5, atol=0.0)


def test_such_devices_are_not_pulsed() -> None:
    device = dataclasses.replace(pg.presets.soft_bounds_training().cell.device, g_min=1e-6)
    with pytest.raises(ValueError, match="pulses are given, but the cell's device has g_min, which only devices that"):
        dataclasses.replace(pg.presets.soft_bounds_training(), cell=ReferencedDevice(device=device))


def test_a_liner_that_leaves_no_window_is_named() -> None:
    with pytest.raises(ValueError, match=r"liner = 0\.0001 S conducts as well as"):
        projected(joshi_2020(), liner=1e-4)
    with pytest.raises(TypeError, match="liner = '1' is a str"):
        projected(joshi_2020(), liner="1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="device is a NoneType"):
        projected(None, liner=1e-6)  # type: ignore[arg-type]
