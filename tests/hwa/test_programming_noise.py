"""Training noise has the spread of the programmed cell, for every cell and device, at every weight."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import phasegrad as pg
from phasegrad.cells import (
    Cell,
    DifferentialPair,
    DifferentialSlices,
    MultiMemristive,
    OffsetSlices,
    ReferencedDevice,
    SignificancePairs,
)
from phasegrad.crossbar import NoiseProfile
from phasegrad.devices import Capacitor, Curve, hermes_two, ideal_device, joshi_2020, projected
from phasegrad.hwa import PCMNoise, Recipe

JOSHI = joshi_2020()
CELLS: dict[str, Cell] = {
    "pair": DifferentialPair(device=JOSHI),
    "cubic law": DifferentialPair(device=hermes_two()),
    "lowest conductance": DifferentialPair(device=projected(JOSHI, liner=0.9e-6)),
    "single device": ReferencedDevice(device=JOSHI),
    "single device above its lowest": ReferencedDevice(device=projected(JOSHI, liner=0.9e-6)),
    "significances": SignificancePairs(device=JOSHI, significances=(2.0, 1.0)),
    "multi-memristive": MultiMemristive(device=JOSHI, pairs=3),
    "two slices": DifferentialSlices(device=JOSHI),
    "four slices": DifferentialSlices(device=JOSHI, slices=4),
    "seven slices": DifferentialSlices(device=JOSHI, slices=7),
    "one slice of 16 bits": DifferentialSlices(device=JOSHI, bits=16, slices=1),
    "slices of a lowest conductance": DifferentialSlices(device=projected(JOSHI, liner=0.9e-6), slices=3),
    "offset slices": OffsetSlices(device=JOSHI),
    "offset bits": OffsetSlices(device=JOSHI, slices=8),
    "offset slices of a lowest conductance": OffsetSlices(device=projected(JOSHI, liner=0.9e-6), slices=3),
}
SHAPE = (150, 401)
N = 150 * 400


def layer_of(cell: Cell, weight: float) -> pg.nn.AnalogLinear:
    """A layer of equal weights, whose columns have the scale 1; each column has its own reference."""
    hardware = pg.Hardware(cell=cell, columns=1)
    layer = pg.nn.AnalogLinear(SHAPE[1], SHAPE[0], bias=False, hardware=hardware)
    layer.weight.data.fill_(weight)[:, 0] = 1.0
    return layer


def training_sd(layer: pg.nn.AnalogLinear) -> float:
    Recipe(noise=PCMNoise(), clip_sigma=0.0).apply(layer.train())
    seen = layer(torch.eye(layer.in_features)).detach().t()
    return seen[:, 1:].std().item()


@pytest.mark.parametrize("weight", [-1.0, -0.6, -0.02, 0.0, 0.02, 0.6, 1.0])
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS.keys())
def test_training_noise_has_the_spread_of_programmed_weights(cell: Cell, weight: float) -> None:
    torch.manual_seed(0)
    layer = layer_of(cell, weight)
    programmed = pg.inference.program(layer, seed=1).weight[:, 1:].std().item()
    # Two sample deviations, each of a relative error of 1 / sqrt(2 n), or 1.3 times that for rectified normals.
    assert training_sd(layer) == pytest.approx(programmed, rel=5.0 * 1.3 / N**0.5 + 0.003)


@pytest.mark.parametrize("strength", [0.0, 0.5, 3.0])
def test_strength_multiplies_the_spread(strength: float) -> None:
    cell = CELLS["single device"]
    g = torch.linspace(-1.0, 1.0, 9)
    single, scaled = (PCMNoise(strength=s).profiles(pg.Hardware(cell=cell))[0] for s in (1.0, strength))
    torch.testing.assert_close(scaled(g), strength * single(g), rtol=0.006, atol=0.0)


def sd_of(profile: NoiseProfile, g: float) -> float:
    return profile(torch.tensor(g, dtype=torch.float64)).item()


@pytest.mark.parametrize("target", [0.0, 0.1e-6, 0.5e-6, 3e-6, 25e-6])
def test_programming_deviation_is_that_of_programmed_devices(target: float) -> None:
    n = 50_000
    for device in (JOSHI, projected(JOSHI, liner=0.9e-6)):
        wanted = torch.full((n,), max(target, device.g_min))
        sample = device.program(wanted, torch.tensor([3]), 0).conductance.double()
        expected = device.programming_deviation(wanted[:1]).item()
        assert sample.std().item() == pytest.approx(expected, rel=5.0 * 1.3 / (2 * n) ** 0.5)


def test_the_partner_at_reset_has_a_rectified_error() -> None:
    profile = PCMNoise().profiles(pg.Hardware(cell=CELLS["pair"]))[0]
    sd, rectified = 0.26348 / 25, 0.5 - 0.5 / math.pi
    assert sd_of(profile, 0.0) == pytest.approx(sd * (2.0 * rectified) ** 0.5, rel=0.004)
    at_one = math.hypot((0.26348 + 1.9650 - 1.1731) / 25, sd * rectified**0.5)
    assert sd_of(profile, 1.0) == pytest.approx(at_one, rel=0.004)


def test_exact_devices_have_no_noise() -> None:
    for device in (ideal_device(), Capacitor(g_max=25e-6)):
        perturbation = Recipe(noise=PCMNoise()).perturbation(pg.Hardware(cell=DifferentialPair(device=device)))
        assert not perturbation.perturbs


def test_a_profile_survives_json() -> None:
    perturbation = Recipe().perturbation(pg.Hardware(cell=CELLS["offset slices"]))
    assert pg.configuration.from_json(perturbation.to_json()) == perturbation


def test_wrong_profiles() -> None:
    with pytest.raises(ValueError, match="2 parabolas and 0 starts"):
        NoiseProfile(parabolas=((0.1, 0.0, 0.0), (0.2, 0.0, 0.0)))
    with pytest.raises(ValueError, match="must increase"):
        NoiseProfile(parabolas=((0.1, 0.0, 0.0),) * 3, starts=(0.5, 0.2))
    with pytest.raises(ValueError, match="three finite"):
        NoiseProfile(parabolas=((0.1, math.nan, 0.0),))
    profile = NoiseProfile(parabolas=((0.1, 0.0, 0.0),))
    with pytest.raises(ValueError, match="give one of the two"):
        pg.crossbar.Perturbation(additive=0.1, profiles=(profile,))
    with pytest.raises(TypeError, match="a tuple, each NoiseProfile"):
        pg.crossbar.Perturbation(profiles=(0.1,))


def test_noise_of_a_steep_law_keeps_within_the_kernels_limit() -> None:
    steep = replace(JOSHI, programming_sd=(1e-9, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1e-6), nu_sd=Curve())
    profile = PCMNoise().profiles(pg.Hardware(cell=DifferentialPair(device=steep)))[0]
    assert sd_of(profile, 1.0) == pytest.approx(1.001e-6 / 25e-6, rel=0.01)
