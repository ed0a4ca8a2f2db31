"""Drift-aware training: weights read from chips of a random age."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.configuration import from_json
from phasegrad.crossbar import Hardware, Perturbation
from phasegrad.hwa import (
    AdditiveNoise,
    FixedAge,
    LogUniform,
    PCMNoise,
    Recipe,
    Uniform,
    calibrate,
    draw_age,
    fine_tune,
    set_noise_level,
)

YEAR = 3.15e7
VALUES = torch.tensor([-1.0, -0.6, -0.25, -0.05, 0.0, 0.02, 0.15, 0.4, 0.8, 1.0])

PRESET = pg.presets.pcm_inference()
DEVICE = PRESET.cell.device
CELLS = {
    "pair": PRESET.cell,
    "significance": pg.cells.SignificancePairs(device=DEVICE, significances=(2.0, 1.0)),
    "slices": pg.cells.DifferentialSlices(device=DEVICE, bits=6, slices=2),
    "reference": pg.cells.OffsetSlices(device=DEVICE, bits=6, slices=2),
    "projected": pg.cells.DifferentialPair(device=pg.devices.projected(DEVICE, liner=0.9e-6)),
}


def on(cell: pg.cells.Cell, **changes: object) -> Hardware:
    """Small tiles, so that compensation per tile and per column differ; four row tiles of two column tiles."""
    return dataclasses.replace(PRESET, cell=cell, rows=20, columns=30, **changes)


def patterned(hardware: Hardware) -> nn.Module:
    """A layer in which each value occurs 480 times, and every column of a tile has the same scale."""
    layer = pg.convert(nn.Linear(80, 60, bias=False), hardware)
    with torch.no_grad():
        layer.weight.copy_(VALUES.repeat(8).expand(60, 80))
    layer.ranges_calibrated = True
    return layer


def compensated(weights: pg.crossbar.tile_weights.TileWeights, hardware: Hardware) -> Tensor:
    """The weights ``[out, in]`` that a product effectively uses."""
    weight = weights.weight
    if weights.slice_factors is not None:
        weight = torch.tensordot(weight.new_tensor(weights.slice_factors), weight, dims=1)
    if weights.gain is None:
        return weight
    return weight * weights.gain.t().repeat_interleave(hardware.rows, dim=1)


def of_chips(layer: nn.Module, age: float, compensation: str | None, chips: int) -> Tensor:
    """What reads of programmed, aged and compensated chips find, ``[chips, out, in]``."""
    found = []
    for seed in range(chips):
        chip = pg.inference.age(pg.inference.program(layer, seed=seed), seconds=age)
        if compensation is not None:
            chip = pg.inference.compensate(chip, compensation, seed=1000 + seed)
        found.append(compensated(chip.devices.tile_weights(torch.tensor([seed]), torch.float32), layer.hardware))
    return torch.stack(found)


def of_training(layer: nn.Module, age: float, compensation: str | None, chips: int) -> Tensor:
    """What training at the same age reads, ``[chips, out, in]``."""
    Recipe(clip_sigma=0.0, age=FixedAge(seconds=age), compensation=compensation).apply(layer)
    layer.train()
    with torch.no_grad():
        reads = [layer.store.matrix(torch.tensor([5000 + seed])) for seed in range(chips)]
    assert all(read.read_noise == 0.0 for read in reads)  # the devices have their own
    return torch.stack([compensated(read, layer.hardware) for read in reads])


def deviations(found: Tensor, expected: Tensor) -> Tensor:
    """Differences of mean and of mean square of each value in standard errors, which chips determine.

    The weights of a chip are correlated through its gain and reference columns, chips are independent.
    """
    z = []
    for power in (1, 2):
        per_chip = [(x**power).mean(1).unflatten(1, (8, len(VALUES))).mean(1) for x in (found, expected)]
        error = sum(m.var(0) / len(m) for m in per_chip).sqrt()
        z.append((per_chip[0].mean(0) - per_chip[1].mean(0)) / error)
    return torch.stack(z)


@pytest.mark.parametrize(
    ("cell", "compensation", "age"),
    [
        ("pair", None, 5 * YEAR),
        ("pair", "tile", 5 * YEAR),
        ("pair", "column", 5 * YEAR),
        ("pair", "layer", 0.0),
        ("significance", "column", YEAR),
        ("slices", "tile", YEAR),
        ("reference", "column", YEAR),
        ("projected", "tile", YEAR),
    ],
)
def test_training_at_an_age_has_the_moments_of_programmed_aged_and_compensated_chips(
    cell: str, compensation: str | None, age: float
) -> None:
    layer = patterned(on(CELLS[cell]))
    expected = of_chips(layer, age, compensation, 40)
    found = of_training(layer, age, compensation, 40)
    # 20 statistics; Student's t of 78 degrees of freedom exceeds 4.5 in one of 40,000.
    assert deviations(found, expected).abs().max() < 4.5


def test_moments_notice_drift_that_is_five_percent_off() -> None:
    layer = patterned(on(CELLS["pair"]))
    expected = of_chips(layer, YEAR, None, 40)
    nu = DEVICE.nu_mean
    weaker = dataclasses.replace(nu, log_slope=0.95 * nu.log_slope, low=0.95 * nu.low, high=0.95 * nu.high)
    changed = dataclasses.replace(DEVICE, nu_mean=weaker)
    other = patterned(on(pg.cells.DifferentialPair(device=changed)))
    assert deviations(of_training(other, YEAR, None, 40), expected).abs().max() > 10.0
