"""Programming by the error of products: it is lower than that of other methods where products see more than devices."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import phasegrad as pg
from phasegrad.cells import DifferentialPair, SignificancePairs
from phasegrad.crossbar import Adc, Dac, FixedRange, Wires
from phasegrad.devices import joshi_2020, melt_and_quench
from phasegrad.inference import AmplitudeSteps, GradientDescent, Statistical, WriteVerify, program, programming_record

CELL = DifferentialPair(device=melt_and_quench())
TILE = pg.Hardware(cell=CELL, rows=32, columns=32, scale="tile")
LOOP = WriteVerify(strategy=AmplitudeSteps())


def net_on(hardware: pg.Hardware, inputs: int = 48) -> pg.nn.AnalogLinear:
    torch.manual_seed(0)
    net = pg.convert(nn.Linear(inputs, 32, bias=False), hardware)
    with torch.no_grad():
        net.weight.copy_((torch.randn(32, inputs) / 3.0).clamp(-1.0, 1.0))
    return net


@torch.no_grad()
def error(hardware: pg.Hardware, how: pg.inference.ProgrammingMethod) -> float:
    net = net_on(hardware)
    x = torch.rand(1000, net.in_features) * 2.0 - 1.0
    wanted, errors = x @ net.weight.t(), []
    for seed in range(3):
        chip = program(net, seed=seed, how=how)
        errors.append(float((chip(x) - wanted).square().mean() / wanted.square().mean()))
    return (sum(errors) / 3.0) ** 0.5


def test_products_are_better_than_after_a_statistical_draw() -> None:
    assert error(TILE, GradientDescent()) < 0.9 * error(TILE, Statistical())


def test_what_wires_do_to_products_is_corrected() -> None:
    wired = dataclasses.replace(TILE, wires=Wires(word_line=40.0, bit_line=40.0, solve="first-order"))
    assert error(wired, GradientDescent(iterations=30)) < 0.8 * error(wired, LOOP)


def test_it_works_through_noisy_converters() -> None:
    dac, adc = Dac(bits=8, range=FixedRange(value=1.0)), Adc(bits=8, range=FixedRange(value=10.0))
    hardware = dataclasses.replace(TILE, dac=dac, adc=adc, output_noise=0.04)
    assert error(hardware, GradientDescent()) < 1.1 * error(hardware, LOOP)


def test_no_single_device_is_read() -> None:
    record = programming_record(program(net_on(TILE), seed=0, how=GradientDescent(iterations=5, samples=64)))[""]
    assert record.iterations == 5
    assert record.reads.tolist() == [[5 * 64], [5 * 64]]
    assert record.pulses.shape == record.residual.shape == (2, 32, 48)


def test_seeds_make_the_chip() -> None:
    one, same, other = (program(net_on(TILE), seed=s, how=GradientDescent(iterations=3)) for s in (0, 0, 1))
    assert torch.equal(one.devices.conductance, same.devices.conductance)
    assert not torch.equal(one.devices.conductance, other.devices.conductance)


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (DifferentialPair(device=joshi_2020()), "amplitude = None"),
        (SignificancePairs(device=melt_and_quench(), significances=(2.0, 1.0)), "not a pair of devices.*WriteVerify"),
    ],
)
def test_cells_that_products_do_not_resolve_are_refused(cell: pg.cells.Cell, text: str) -> None:
    net = pg.convert(nn.Linear(4, 3), pg.Hardware(cell=cell))
    with pytest.raises(ValueError, match=text):
        program(net, seed=0, how=GradientDescent())
    assert net.devices is None
