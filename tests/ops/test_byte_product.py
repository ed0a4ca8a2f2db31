"""Large products as products of bytes: as exact as floats, or with an error that the noise hides."""

from __future__ import annotations

import math

import pytest
import torch
from tests.contracts.op import SEED, draw, same_bits, threads
from torch import Tensor

from phasegrad.ops.cpu import byte_product
from phasegrad.ops.native import library
from phasegrad.ops.reference import MID_TREAD, NO_CONVERTER

pytestmark = pytest.mark.skipif(library is None, reason="no compiled kernels")

ROWS, FEATURES, NOISE = 512, 600, 0.04
RANGE = torch.tensor([1.3])


@pytest.fixture(autouse=True)
def _bytes_on_every_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the instructions the kernel is slow, not different."""
    monkeypatch.setattr(byte_product, "_FAST", True)


def tile_linear(
    x: Tensor, w: Tensor, scale: Tensor, *, dac: float = 127.0, output_noise: float = 0.0, read_noise: float = 0.0,
    mode: int = NO_CONVERTER, gain: Tensor | None = None, ranges: Tensor = RANGE,
) -> Tensor:  # fmt: skip
    noise = (0.0, 0.0, 0.0)
    return torch.ops.phasegrad.tile_linear(
        x, w, scale, None, None, gain, ranges, dac, 0.0, 1.0, torch.tensor([10.0]), SEED, 3, 11, ROWS, noise, 0.0,
        output_noise, read_noise, mode, 127.0,
    )[0]  # fmt: skip


def scales(w: Tensor) -> Tensor:
    return torch.stack([part.abs().amax(1) for part in w.split(ROWS, dim=1)])


def expected(x: Tensor, w: Tensor, scale: Tensor, ranges: Tensor = RANGE) -> Tensor:
    """The exact product plus the noise of the outputs of both tiles."""
    driven = torch.ops.phasegrad.dac(x, ranges, 127.0, 0.0, 1.0).double()
    z = [torch.ops.phasegrad.normal(SEED, 11 + t, (len(x), len(w))).double() for t in range(2)]
    noise = sum(NOISE * s * ranges.view(-1, 1) * n for s, n in zip(scale, z, strict=True))
    return driven @ w.double().t() + noise


@pytest.mark.parametrize("columns", [251, 252, 256])
@pytest.mark.parametrize("per_row", [False, True])
def test_weights_far_above_their_scale_keep_the_precision_of_floats(columns: int, per_row: bool) -> None:
    """Any number of columns and of inputs draws the noise that belongs to each output."""
    x, w = draw(257, FEATURES, seed=4), draw(columns, FEATURES, seed=1)
    ranges, scale = (draw(257, seed=2).abs() + 0.5 if per_row else RANGE), scales(w) / 4
    error = tile_linear(x, w, scale, output_noise=NOISE, ranges=ranges) - expected(x, w, scale, ranges)
    size = x.double().square().sum(1, keepdim=True).sqrt() * w.double().square().sum(1).sqrt()
    assert (error.abs() / size).max() < 1e-6


def test_two_bytes_add_less_than_a_percent_of_the_noise() -> None:
    x, w = (
        draw(257, FEATURES, seed=4).sign() * RANGE,
        draw(256, FEATURES, seed=1),
    )  # every input is as large as possible
    scale = scales(w)
    error = (tile_linear(x, w, scale, output_noise=NOISE) - expected(x, w, scale)) / (scale.sum(0) * RANGE)
    rounding = math.sqrt(ROWS / 12.0) / 32512.0
    assert byte_product._digits(ROWS, NOISE) == 2
    assert byte_product._digits(ROWS, 0.5 * NOISE) == byte_product._digits(4 * ROWS, NOISE) == 3
    assert 0.2 * rounding < error.square().mean().sqrt() < rounding < 0.01 * NOISE


@pytest.mark.parametrize("read_noise", [0.0, 0.0175])
def test_inputs_are_converted_as_by_the_converter(read_noise: float) -> None:
    x, w, gain = draw(257, FEATURES, seed=4), draw(256, FEATURES, seed=1), draw(2, 256, seed=3).abs()
    settings = {"output_noise": NOISE, "read_noise": read_noise, "mode": MID_TREAD, "gain": gain}
    driven = torch.ops.phasegrad.dac(x, RANGE, 127.0, 0.0, 1.0)
    with threads(1):
        results = [tile_linear(x, w, scales(w), **settings), tile_linear(driven, w, scales(w), dac=0.0, **settings)]
    with threads(3):
        results.append(tile_linear(x, w, scales(w), **settings))
    assert same_bits(results[:1], results[1:2])
    assert same_bits(results[:1], results[2:])


def test_read_noise_has_the_variance_of_its_sizes() -> None:
    """Magnitudes of 7 bits: no bias, and little scatter."""
    x, w = draw(257, FEATURES, seed=4), draw(251, FEATURES, seed=1)
    scale = scales(w) / 4
    driven = torch.ops.phasegrad.dac(x, RANGE, 127.0, 0.0, 1.0)
    noise = tile_linear(x, w, scale, read_noise=0.5) - driven @ w.t()
    parts = zip(scale, driven.split(ROWS, 1), w.split(ROWS, 1), strict=True)
    sds = [0.5 * (s * (a.square() @ b.abs().t())).sqrt() for s, a, b in parts]
    z = [torch.ops.phasegrad.normal(SEED, 11 + t, (257, 251)) for t in range(2)]
    wanted = sum(sd * n for sd, n in zip(sds, z, strict=True))
    assert float((noise * wanted).sum() / wanted.square().sum()) == pytest.approx(1.0, abs=1e-3)
    assert ((noise - wanted).square().mean() / wanted.square().mean()).sqrt() < 0.03
