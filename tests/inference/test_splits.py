from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

import phasegrad as pg
from phasegrad.cells import FullOrPartial, SignificancePairs, SplitTable
from phasegrad.devices import Telegraph, joshi_2020
from phasegrad.inference import optimise_split, optimise_splits, weight_error
from phasegrad.testing import BOUND

CELL = SignificancePairs(device=joshi_2020(), significances=(2.0, 1.0))
PAIR = pg.cells.DifferentialPair(device=joshi_2020())
WEIGHTS = (0.25 * torch.randn(20_000, generator=torch.Generator().manual_seed(0))).clamp(-1.0, 1.0)
TIMES = (0.0, 86_400.0)


def found(**options: object) -> pg.inference.OptimisedSplit:
    return optimise_split(CELL, WEIGHTS, **{"times": TIMES, "iterations": 60, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("cell", [CELL, dataclasses.replace(CELL, split=FullOrPartial()), found().cell], ids=str)
def test_the_analytic_error_is_that_of_programmed_and_compensated_weights(cell: SignificancePairs) -> None:
    weights, (at_start, aged) = WEIGHTS.clone(), weight_error(cell, WEIGHTS, times=TIMES)
    state, errors = cell.program(weights, torch.tensor([3]), 0), []
    reads = [cell.weight(cell.device.read(state, torch.tensor([t]).double(), torch.tensor([9]), 5)) for t in TIMES]
    for read, wanted in zip(reads, (at_start, aged), strict=True):
        square = (read * (reads[0].abs().mean() / read.abs().mean()) - weights).double().square()
        errors.append((square.mean() - wanted**2) / (square.std() / math.sqrt(len(weights))))
    assert max(abs(float(e)) for e in errors) < BOUND


def test_the_optimum_has_a_significance_of_about_two_and_less_error() -> None:
    result = found(iterations=150)
    assert 1.3 < result.significance < 2.9  # 1.4 to 2.6, depending on the times and on the tails
    assert result.error < 0.85 * result.error_before
    assert result.error <= min(result.start_errors) * 1.001


def test_the_range_can_be_kept() -> None:
    result = found(full_weight=1.0)
    assert isinstance(result.cell.split, SplitTable)
    assert result.cell.split.full_weight == 1.0
    assert found().error < result.error < result.error_before


def test_the_same_seed_finds_the_same_cell_and_draws_nothing_global() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert found().cell == found().cell
    assert torch.equal(torch.get_rng_state(), before)


def net() -> nn.Module:
    torch.manual_seed(1)
    layers = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2), nn.Flatten(), nn.Linear(8 * 4, 8), nn.Linear(8, 8), nn.Linear(8, 8)
    )
    layers[4].weight = layers[3].weight
    return pg.convert(layers, pg.Hardware(cell=CELL, rows=16))


def test_every_layer_gets_its_own_split_and_tied_layers_share_one() -> None:
    digital = net()
    optimised = optimise_splits(digital, times=TIMES, iterations=20)
    cells = [optimised[i].hardware.cell for i in (0, 2, 3, 4)]
    assert cells[0] != cells[1]
    assert cells[2] == cells[3]
    assert all(digital[i].hardware.cell == CELL for i in (0, 2, 3, 4))
    chip = pg.inference.age(pg.inference.program(optimised, seed=0), seconds=86_400.0)
    again = copy.deepcopy(chip)
    again.load_state_dict(chip.state_dict())
    x = torch.randn(2, 4, 4, 4)
    assert chip(x).shape == (2, 8)
    assert torch.equal(again[2].weight, chip[2].weight)
    with pytest.raises(ValueError, match="different Hardware"):
        pg.inference.program(digital, seed=0).load_state_dict(chip.state_dict())


def test_chips_of_optimised_nets_have_less_error() -> None:
    torch.manual_seed(2)
    digital = pg.convert(nn.Sequential(nn.Linear(200, 50, bias=False)), pg.Hardware(cell=CELL))
    nn.init.normal_(digital[0].weight)
    optimised, errors = optimise_splits(digital, times=TIMES, iterations=60), []
    for one in (digital, optimised):
        chip = pg.inference.program(one, seed=0)
        errors.append(float((chip[0].weight - digital[0].weight).detach().square().mean()))
    assert errors[1] < 0.9 * errors[0]


def test_training_noise_follows_the_split() -> None:
    noise = pg.hwa.PCMNoise()
    hardware = pg.Hardware(cell=found().cell)
    layer = pg.convert(nn.Sequential(nn.Linear(16, 4)), hardware)
    pg.hwa.fine_tune(
        layer, [(torch.randn(8, 16), torch.randn(8, 4))], loss=nn.functional.mse_loss, epochs=1,
        recipe=pg.hwa.Recipe(noise=noise),
    )  # fmt: skip
    assert bool(torch.isfinite(layer[0].weight).all())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: optimise_split(CELL, 2.0 * WEIGHTS), ValueError, r"density = .*weights in \[-1, 1\]"),
        (lambda: optimise_split(CELL, torch.zeros(0)), ValueError, "one or more weights"),
        (lambda: optimise_split(CELL, WEIGHTS, times=()), ValueError, "at least one time"),
        (lambda: optimise_split(CELL, WEIGHTS, times=(-1.0,)), ValueError, "times = -1.0"),
        (lambda: optimise_split(CELL, WEIGHTS, points=1), ValueError, "points = 1"),
        (lambda: optimise_split(CELL, WEIGHTS, full_weight=0.0), ValueError, "full_weight = 0.0"),
        (lambda: optimise_split(PAIR, WEIGHTS), TypeError, "SignificancePairs"),  # type: ignore[arg-type]
        (lambda: optimise_splits(nn.Linear(2, 2)), ValueError, "no analog layer"),
        (lambda: optimise_splits(pg.inference.program(net(), seed=0)), ValueError, "programmed, not digital"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()  # type: ignore[operator]


def test_devices_of_unknown_moments_are_refused() -> None:
    device = dataclasses.replace(joshi_2020(), telegraph=Telegraph(fraction=0.1, amplitude=0.05, rates=(1e-3, 1.0)))
    with pytest.raises(ValueError, match="the mean and variance of a PCM are unknown"):
        weight_error(dataclasses.replace(CELL, device=device), WEIGHTS)
