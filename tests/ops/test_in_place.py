"""Conversion in place has the bits of the op ``adc``, and refuses what the op must see."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import phasegrad as pg
from phasegrad.ops.direct import KERNELS, call, is_plain
from phasegrad.ops.in_place import adc_in_place

native = pytest.mark.skipif("adc" not in KERNELS, reason="the reference has no kernels")


def arguments(tiles: int = 2, noisy_reads: bool = True, gain: bool = True) -> list:
    generator = torch.Generator().manual_seed(0)
    shape, scale = (130, 17), torch.rand(tiles, 17, generator=generator)
    y = [torch.randn(shape, generator=generator) for _ in range(tiles)]
    v = [t.square() for t in y] if noisy_reads else []
    k = torch.rand(tiles, 17, generator=generator) if gain else None
    return [y, v, scale, k, torch.ones(1), torch.full((1,), 3.0), torch.tensor([5]), 64, 0.04, 0.01, 1, 127.0]


@native
@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize(("tiles", "noisy_reads", "gain"), [(1, False, False), (2, True, True), (3, False, True)])
def test_bits_are_those_of_the_op(tiles: int, noisy_reads: bool, gain: bool, inference: bool) -> None:
    expected = call("adc", *arguments(tiles, noisy_reads, gain))[0]
    with torch.inference_mode(inference):
        given = arguments(tiles, noisy_reads, gain)
        found = adc_in_place(*given)
    assert found is given[0][0]
    assert torch.equal(found, expected)


def test_what_the_op_must_see_is_left_alone() -> None:
    given = arguments()
    before = given[0][0].clone()
    double = [[t.double() for t in given[0]], *given[1:]]
    assert adc_in_place(*double) is None
    trained = [[t.clone().requires_grad_() for t in given[0]], *given[1:]]
    assert adc_in_place(*trained) is None
    strided = [[t.t().contiguous().t() for t in given[0]], *given[1:]]
    assert adc_in_place(*strided) is None
    assert torch.equal(given[0][0], before)


@native
def test_tensors_of_inference_mode_bypass_the_dispatcher_within_it_only() -> None:
    with torch.inference_mode():
        made = torch.zeros(3)
        assert is_plain(made)
    assert not is_plain(made)


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 8, 3, groups=1), nn.Conv1d(3, 6, 3, groups=3), nn.Linear(9, 5)])
def test_a_chip_computes_the_same_in_every_mode(layer: nn.Module) -> None:
    x = torch.randn((4, 3, 9, 9)[: {nn.Conv2d: 4, nn.Conv1d: 3}.get(type(layer), 3)])
    chip = pg.inference.program(pg.convert(nn.Sequential(layer), pg.presets.pcm_inference()), seed=0)
    outputs = []
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        torch.manual_seed(1)
        with mode():
            outputs.append(chip(x).detach().clone())
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])
