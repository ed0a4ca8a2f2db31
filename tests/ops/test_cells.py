"""Reads of cells in one pass: the bits of reading devices first, and the moments of rectified reads."""

from __future__ import annotations

import math

import pytest
import torch
from tests.contracts.triton_kernels import needs_triton, run_kernel
from torch import Tensor

from phasegrad.devices import Power, Table
from phasegrad.ops import reference

OPS = torch.ops.phasegrad
SHAPES = [(2, 64, 256), (2, 33, 65), (4, 7, 129), (1, 1, 1), (3, 100, 31)]
SEED = torch.tensor([11])
LAWS = {
    "joshi": Power(factor=0.0088, exponent=-0.65, high=0.2).encode(),
    "table": Table(g=(0.0, 0.5, 1.0), value=(0.1, 0.03, 0.02)).encode(),
    "no noise": (),
}


def _devices(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    g = 25e-6 * torch.rand(shape, generator=generator)
    g[g < 5e-6] = 0.0
    return g, 0.1 * torch.rand(shape, generator=generator)


def _factors(planes: int) -> list[float]:
    return [0.0 if planes % 2 == 0 else -0.5, *((-1.0) ** p * (p + 1) / 25e-6 for p in range(planes))]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("noise", LAWS)
@pytest.mark.parametrize("scaled", [True, False])
def test_one_pass_has_the_bits_of_reads_that_are_added(shape: tuple[int, ...], noise: str, scaled: bool) -> None:
    (g, nu), age, rows = _devices(shape), torch.tensor(3600.0, dtype=torch.float64), 50
    scale = torch.rand(-(-shape[2] // rows), shape[1]) if scaled else None
    settings, factors = (25e-6, 20.0, 250e-9, LAWS[noise]), _factors(shape[0])
    read = OPS.pcm_read(g, nu, age, SEED, 7, *settings)
    expected = reference.sum_of_devices(read, factors, scale, rows)
    assert torch.equal(OPS.pcm_cells(g, nu, age, SEED, 7, *settings, factors, scale, rows), expected)
    mean, sd = OPS.pcm_moments(g, nu, age, *settings)
    kept = OPS.noisy_cells(mean, sd if noise != "no noise" else None, SEED, 7, factors, scale, rows)
    assert torch.equal(kept, expected)


@pytest.mark.parametrize("u", [-1.0, 0.0, 0.3, 1.0, 3.0, 5.9, 6.1, 40.0])
def test_moments_of_rectified_reads(u: float) -> None:
    """Against the integral of the normal density over what is not clipped."""
    sd = 2e-6
    z = torch.linspace(-12.0, 12.0, 2_000_001, dtype=torch.float64)
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2.0 * math.pi) * (z[1] - z[0])
    read = (u + z).clamp(min=0.0)
    first = float((read * density).sum())
    second = float((read.square() * density).sum()) - first**2
    mean, deviation = torch.full((1, 5, 40), u * sd), torch.full((1, 5, 40), sd)
    scale = torch.full((2, 5), 3.0)
    weight, variance = OPS.rectified_cells(mean, deviation, [0.25, 1e6], scale, 20)
    torch.testing.assert_close(weight, torch.full((5, 40), 3.0 * (first * sd * 1e6 + 0.25)), rtol=3e-6, atol=0.0)
    torch.testing.assert_close(variance, torch.full((5, 40), 3.0 * second * (sd * 1e6) ** 2), rtol=2e-5, atol=0.0)


def test_moments_of_reads_without_noise_and_of_several_planes() -> None:
    mean = torch.tensor([2e-6, 3e-6, 0.0]).view(3, 1, 1)
    sd = torch.tensor([0.0, 1e-9, 0.0]).view(3, 1, 1)
    weight, variance = OPS.rectified_cells(mean, sd, [0.0, 1e6, -2e6, 1e6], torch.ones(1, 1), 8)
    assert float(weight) == pytest.approx(-4.0)
    assert float(variance) == pytest.approx(4e-6)


def test_kernels_agree_with_the_reference() -> None:
    g, nu = _devices((2, 30, 100))
    mean, sd = OPS.pcm_moments(g, nu, torch.tensor(60.0, dtype=torch.float64), 25e-6, 20.0, 250e-9, LAWS["joshi"])
    scale, factors = torch.rand(4, 30), _factors(2)
    for ours, theirs in zip(
        OPS.rectified_cells(mean, sd, factors, scale, 30),
        reference.rectified_cells(mean, sd, factors, scale, 30),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-7)
    x, weight, variance = torch.randn(100), torch.randn(30, 100), torch.rand(30, 100)
    for rows in (30, 64, 100, 7):
        for ours, theirs in zip(
            OPS.row_products(x, weight, variance, rows), reference.row_products(x, weight, variance, rows), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@needs_triton
@pytest.mark.parametrize(
    ("shape", "noise", "scaled"),
    [
        ((2, 16, 52), "joshi", True),  # planes of whole groups of 64 normals
        ((2, 16, 52), "no noise", False),
        ((2, 3, 53), "joshi", False),
        ((2, 3, 53), "table", True),
        ((2, 3, 53), "no noise", True),
        ((1, 1, 1), "table", False),
    ],
)
def test_triton_reads_the_cells_of_the_reference(
    shape: tuple[int, ...], noise: str, scaled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (g, nu), age, rows = _devices(shape), torch.tensor(3600.0, dtype=torch.float64), 50
    scale = torch.rand(-(-shape[2] // rows), shape[1]) if scaled else None
    settings, factors = (25e-6, 20.0, 250e-9, LAWS[noise]), _factors(shape[0])
    mean, sd = run_kernel("pcm_moments", g, nu, age, *settings)
    torch.testing.assert_close((mean, sd), reference.pcm_moments(g, nu, age, *settings), rtol=1e-6, atol=1e-12)
    expected = reference.pcm_cells(g, nu, age, SEED, 7, *settings, factors, scale, rows)
    found = []
    for blocks in (16, 512):
        monkeypatch.setattr("phasegrad.ops.triton.launch.BLOCKS", blocks)
        found.append(run_kernel("pcm_cells", g, nu, age, SEED, 7, *settings, factors, scale, rows))
        kept = sd if noise != "no noise" else None
        found.append(run_kernel("noisy_cells", mean, kept, SEED, 7, factors, scale, rows))
    torch.testing.assert_close(found[0], expected, rtol=2e-6, atol=1e-6)
    assert all(torch.equal(found[0], other) for other in found[1:])


@needs_triton
def test_triton_agrees_with_the_reference_on_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    g, _ = _devices((2, 11, 100))
    mean = g / 25e-6
    sd = 0.5 * mean.flip(-1)  # some reads are clipped at 0, some devices have no noise
    scale, factors, results = torch.rand(4, 11), [0.2, 1.0, -2.0], []
    for cells in (64, 512, 2048):
        monkeypatch.setattr("phasegrad.ops.triton.rows.CELLS", cells)
        results.append(run_kernel("rectified_cells", mean, sd, factors, scale, 30))
    wanted = reference.rectified_cells(mean, sd, factors, scale, 30)
    torch.testing.assert_close(results[0], wanted, rtol=2e-5, atol=1e-6)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))
    x, weight, variance, results = torch.randn(600), torch.randn(11, 600), torch.rand(11, 600), []
    for outputs in (2, 4, 16):
        monkeypatch.setattr("phasegrad.ops.triton.rows.OUTPUTS", outputs)
        results.append(run_kernel("row_products", x, weight, variance, 290))
    wanted = reference.row_products(x, weight, variance, 290)
    torch.testing.assert_close(results[0], wanted, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_shapes_are_checked() -> None:
    g, nu = _devices((2, 3, 8))
    with pytest.raises(ValueError, match="there are 2 factors"):
        OPS.noisy_cells(g, nu, SEED, 0, [0.0, 1.0], None, 4)
    with pytest.raises(ValueError, match=r"scale \[1, 3\]"):
        OPS.noisy_cells(g, nu, SEED, 0, [0.0, 1.0, 1.0], torch.ones(1, 3), 4)
    with pytest.raises(ValueError, match="one age for all devices"):
        OPS.pcm_cells(g, nu, torch.zeros(2, 3, 8).double(), SEED, 0, 1.0, 1.0, 1.0, (), [0.0, 1.0, 1.0], None, 4)
    with pytest.raises(ValueError, match="row_products: x is"):
        OPS.row_products(torch.ones(3), torch.ones(2, 4), torch.ones(2, 4), 2)


def test_fakes_have_the_shapes_of_the_ops() -> None:
    g, nu = _devices((2, 3, 8))
    age, scale = torch.tensor(60.0, dtype=torch.float64), torch.ones(2, 3)
    for op, arguments in (
        (OPS.pcm_moments, (g, nu, age, 1.0, 1.0, 1.0, ())),
        (OPS.pcm_cells, (g, nu, age, SEED, 0, 1.0, 1.0, 1.0, (), [0.0, 1.0, 1.0], scale, 4)),
        (OPS.noisy_cells, (g, nu, SEED, 0, [0.0, 1.0, 1.0], scale, 4)),
        (OPS.rectified_cells, (g, nu, [0.0, 1.0, 1.0], scale, 4)),
        (OPS.row_products, (torch.ones(8), g[0], nu[0], 4)),
    ):
        torch.library.opcheck(op, arguments)
