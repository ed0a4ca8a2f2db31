from __future__ import annotations

import pytest
import torch

import phasegrad as pg


@pytest.mark.parametrize("preset", [pg.presets.constant_step_training, pg.presets.soft_bounds_training])
def test_a_pulse_is_a_thousandth(preset) -> None:
    hardware = preset()
    layer = pg.nn.AnalogLinear(8, 4, hardware=hardware)
    assert layer.devices.dw_min == pytest.approx(0.001)
    assert hardware.scale == 0.6


def test_pcm_pair_is_forty_microsiemens_a_unit_weight() -> None:
    hardware = pg.presets.pcm_pair_training()
    assert hardware.cell.device.g_max / hardware.scale == pytest.approx(40e-6)
    layer = pg.nn.AnalogLinear(8, 4, hardware=hardware)
    assert layer.devices.dw_min == pytest.approx(0.88e-6 / 40e-6)


@pytest.mark.parametrize("pairs", [1, 7])
def test_more_pairs_are_finer_and_hold_the_same_weight(pairs: int) -> None:
    hardware = pg.presets.multi_memristive_training(pairs=pairs)
    layer = pg.nn.AnalogLinear(8, 4, hardware=hardware)
    assert layer.devices.conductance.shape[0] == 2 * pairs
    assert layer.devices.dw_min == pytest.approx(0.88e-6 / 40e-6 / pairs)


@pytest.mark.parametrize("preset", [pg.presets.pcm_pair_training, pg.presets.multi_memristive_training])
def test_pcm_is_full_where_its_mean_step_vanishes(preset) -> None:
    cell = preset().cell
    m_g, m_0, _ = cell.device.steps.mean
    assert cell.reach == pytest.approx(-m_0 * cell.device.steps.size / m_g, rel=5e-3)


def test_symmetric_points_spread_as_stated() -> None:
    hardware = pg.presets.tiki_taka_training()
    layer = pg.nn.AnalogLinear(100, 100, hardware=hardware)
    assert layer.devices.fast is not None
    for array in (layer.devices, layer.devices.fast):
        assert array.dw_min == pytest.approx(2 * 0.6 / 20)
        up, down, low, high = array.step_parameters[:, 0].double()
        half = 12.5e-6  # where u (1 - (G - half) / (high - half)) = d (1 - (half - G) / (half - low))
        point = (up - down) / (up / (high - half) + down / (half - low)) / half
        assert point.std().item() == pytest.approx(0.3, rel=0.1)
        assert hardware.fast.gain == 0.0
    own = (a.step_parameters[0] / a.step_parameters[1] for a in (layer.devices, layer.devices.fast))
    assert abs(float(torch.corrcoef(torch.stack([r.flatten() for r in own]))[0, 1])) < 5.0 / 100
