"""Presets have the published values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import phasegrad as pg
from phasegrad.configuration import from_json
from phasegrad.crossbar import Adc, Dac, FixedRange, LearnedRange

PRESETS = {
    "pcm": pg.presets.pcm_inference(),
    "hermes, one device": pg.presets.hermes_inference(),
    "hermes, two devices": pg.presets.hermes_inference(devices=2),
    "ideal": pg.presets.ideal_inference(),
}


@pytest.mark.parametrize("name", ["pcm", "hermes, one device", "hermes, two devices"])
def test_periphery_is_the_fields_standard(name: str) -> None:
    hardware = PRESETS[name]
    assert hardware.dac == Dac(bits=8, range=LearnedRange(start=3.0, decay=1e-3, keep=0.95))
    assert hardware.adc == Adc(bits=8, range=FixedRange(value=10.0), convention="mid-tread")
    assert (hardware.output_noise, hardware.read_noise, hardware.scale) == (0.04, 0.0175, "column")


def test_pcm_is_joshis_device_on_512_by_512() -> None:
    hardware = PRESETS["pcm"]
    assert (hardware.rows, hardware.columns) == (512, 512)
    device = hardware.cell.device
    assert (device.g_max, device.t0, device.t_read) == (25e-6, 20.0, 250e-9)
    assert device.programming_sd == pytest.approx((0.26348e-6, 1.9650e-6, -1.1731e-6))


def test_programming_spread_scales_with_g_max() -> None:
    device = pg.presets.pcm_inference(g_max=5e-6).cell.device
    assert device.programming_sd == pytest.approx((0.26348e-6 / 5, 1.9650e-6 / 5, -1.1731e-6 / 5))


@pytest.mark.parametrize(("devices", "g_max", "t0"), [(1, 10.35e-6, 200.0), (2, 20.7e-6, 300.0)])
def test_hermes_is_256_by_256(devices: int, g_max: float, t0: float) -> None:
    hardware = pg.presets.hermes_inference(devices=devices)
    assert (hardware.rows, hardware.columns) == (256, 256)
    device = hardware.cell.device
    assert (device.g_max, device.t0, device.t_read) == (g_max, t0, 512e-9)


@pytest.mark.parametrize("devices", [0, 3, "two"])
def test_hermes_of_other_devices_is_refused(devices: object) -> None:
    with pytest.raises(ValueError, match=f"devices = {devices!r}; it must be 1 or 2"):
        pg.presets.hermes_inference(devices=devices)  # type: ignore[arg-type]


def test_ideal_takes_the_tile_size() -> None:
    hardware = pg.presets.ideal_inference(rows=7, columns=9)
    assert (hardware.rows, hardware.columns) == (7, 9)


@pytest.mark.parametrize("hardware", PRESETS.values(), ids=PRESETS)
def test_every_preset_lives_through_programming_a_year_and_compensation(hardware: pg.Hardware) -> None:
    torch.manual_seed(0)
    digital = nn.Sequential(nn.Linear(300, 20), nn.ReLU(), nn.Linear(20, 5))
    x = torch.randn(8, 300).clamp(-3, 3)
    chip = pg.inference.program(pg.convert(digital, hardware), seed=0)
    old = pg.inference.compensate(pg.inference.age(chip, seconds=3.15e7), seed=0)
    error = (old(x) - digital(x)).norm() / digital(x).norm()
    assert error < (1e-5 if hardware is PRESETS["ideal"] else 1.0)
    assert from_json(hardware.to_json()) == hardware
