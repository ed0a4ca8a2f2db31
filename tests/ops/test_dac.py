from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.contracts.op import Call, FloatingContract, OpContract, draw, same_bits
from torch import Tensor

MAX_CODE = 127.0


def along_rows(range: Tensor, x: Tensor) -> np.ndarray:
    r = range.detach().double().numpy().reshape(-1)
    return r.reshape(-1, *[1] * (x.dim() - 1)) if r.size > 1 else r.reshape(())


class TestDac(OpContract):
    name = "dac"
    triton_block_sizes = (("converters.VALUES", (64, 256, 4096)),)
    differentiable = (0, 1)
    elementwise = (0,)
    opchecked = ("odd", "images", "transposed")

    def samples(self) -> dict[str, Call]:
        one = torch.tensor([1.5])
        per_row = draw(9, seed=1).abs()
        return {
            "one value": (torch.tensor(0.3), torch.tensor(1.0), MAX_CODE, 0.0, 1.0),
            "one row": (draw(1, 100), one, MAX_CODE, 0.01, 0.95),
            "one column": (draw(37, 1), one, MAX_CODE, 0.01, 0.95),
            "no rows": (draw(0, 5), one, MAX_CODE, 0.01, 0.95),
            "odd": (draw(7, 33), one, 7.0, 0.01, 0.95),
            "one step each side": (draw(7, 33), one, 1.0, 0.01, 0.95),
            "sixteen bits": (draw(7, 33), one, 32_767.0, 0.01, 0.95),
            "images": (draw(2, 3, 5, 5), one, MAX_CODE, 0.01, 0.95),
            "transposed": (draw(33, 7).t(), one, MAX_CODE, 0.01, 0.95),
            "range without axes": (draw(7, 33), torch.tensor(0.7), MAX_CODE, 0.01, 0.95),
            "a range each row": (draw(9, 70), per_row, MAX_CODE, 0.0, 1.0),
            "a range each image": (draw(9, 3, 5, 5), per_row, MAX_CODE, 0.0, 1.0),
            "as many rows as columns": (draw(9, 9), per_row, MAX_CODE, 0.0, 1.0),
            "a row of zero range": (draw(9, 70), per_row * (torch.arange(9) != 4), MAX_CODE, 0.0, 1.0),
            "zero range": (draw(7, 33), torch.zeros(1), MAX_CODE, 0.0, 1.0),
            "range learned past zero": (draw(7, 33), -one, MAX_CODE, 0.0, 1.0),
            "long": (draw(3, 6007), one, MAX_CODE, 0.01, 0.95),
            "long rows": (draw(9, 2001), per_row, MAX_CODE, 0.0, 1.0),
        }

    def near_ties(self, x: Tensor, range: Tensor, max_code: float, *_: Any) -> tuple[float, float]:
        return 4e-7 * max_code, 1.001 * range.abs().max().item() / max_code

    def truth(self, x: Tensor, range: Tensor, max_code: float, *_: Any) -> Tensor:
        v, r = x.detach().double().numpy(), along_rows(range, x)
        with np.errstate(invalid="ignore", divide="ignore"):
            level = np.rint(np.clip(v / r, -1.0, 1.0) * max_code)
            return torch.from_numpy(np.asarray(np.where(r == 0.0, 0.0, level * r / max_code)))

    def wrong(self) -> dict[str, tuple[Call, type[Exception], str]]:
        rest, whole = (MAX_CODE, 0.0, 1.0), torch.ones(3, dtype=torch.int32)
        return {
            "integer x": ((whole, torch.ones(1), *rest), TypeError, "x has dtype torch.int32"),
            "integer range": (
                (draw(3), torch.ones(1, dtype=torch.int64), *rest), TypeError, "range has dtype torch.int64",
            ),
            "range elsewhere": ((draw(3), torch.ones(1, device="meta"), *rest), ValueError, "range is on meta"),
            "two ranges for three rows": (
                (draw(3, 5), torch.ones(2), *rest), ValueError, r"range has 2 elements, x has shape \[3, 5\]",
            ),
            "two ranges for a number": (
                (torch.tensor(0.5), torch.ones(2), *rest), ValueError, r"range has 2 elements, x has shape \[\]",
            ),
        }  # fmt: skip

    def test_has_two_half_plus_one_levels(self) -> None:
        x = torch.linspace(-2.0, 2.0, 10_001)
        levels = torch.ops.phasegrad.dac(x, torch.tensor([1.0]), 7.0, 0.0, 1.0) * 7
        assert levels.unique().tolist() == pytest.approx(list(range(-7, 8)), abs=1e-5)

    def test_error_is_half_a_step_at_most(self) -> None:
        x, r = draw(5000), 1.3
        out = torch.ops.phasegrad.dac(x, torch.tensor([r]), MAX_CODE, 0.0, 1.0)
        error = (out.double() - x.double().clamp(-r, r)).abs().max().item()
        assert 0.49 * r / MAX_CODE < error < 0.5001 * r / MAX_CODE

    def test_ties_round_to_even(self) -> None:
        x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
        out = torch.ops.phasegrad.dac(x, torch.tensor([4.0]), 4.0, 0.0, 1.0)
        assert out.tolist() == [-2.0, -2.0, 0.0, 0.0, 2.0, 2.0]

    def test_what_is_not_a_number_passes(self) -> None:
        x = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.5] * 9)
        out = torch.ops.phasegrad.dac(x, torch.tensor([1.0]), MAX_CODE, 0.0, 1.0)
        assert same_bits(out.view(9, 4)[:, :3], x.view(9, 4)[:, :3])

    @pytest.mark.parametrize("r", [torch.nan, torch.inf])
    def test_a_range_that_is_no_number_gives_none(self, r: float) -> None:
        out = torch.ops.phasegrad.dac(draw(5, 19), torch.tensor([r]), MAX_CODE, 0.0, 1.0)
        assert out.isnan().all()

    @pytest.mark.parametrize("r", [1e-36, 1e-38, 1e-44])
    def test_zero_stays_zero_in_the_smallest_range(self, r: float) -> None:
        out = torch.ops.phasegrad.dac(torch.tensor([-r, 0.0, r]), torch.tensor([r]), MAX_CODE, 0.0, 1.0)
        assert out[1] == 0.0
        assert (out.abs() <= 1.01 * r).all()

    def test_no_rows_with_a_range_each(self) -> None:
        out = torch.ops.phasegrad.dac(draw(0, 5), torch.empty(0), MAX_CODE, 0.0, 1.0)
        assert out.shape == (0, 5)


class TestDacBackward(FloatingContract):
    name = "dac_backward"
    triton_block_sizes = (("converters.VALUES", (64, 256, 4096)),)
    rtol = 1e-5
    atol = 1e-4  # a float32 sum over the clipped gradients
    opchecked = ("odd",)

    def samples(self) -> dict[str, Call]:
        one = torch.tensor([1.5])
        return {
            "one value": (torch.tensor(0.3), torch.tensor(2.0), torch.tensor(1.0), 0.01, 0.9),
            "one row": (draw(1, 100, seed=1), draw(1, 100), one, 0.01, 0.95),
            "one column": (draw(37, 1, seed=1), draw(37, 1), one, 0.01, 0.8),
            "odd": (draw(7, 33, seed=1), draw(7, 33), one, 0.01, 0.8),
            "images": (draw(2, 3, 5, 5, seed=1), draw(2, 3, 5, 5), one, 0.01, 0.8),
            "transposed": (draw(33, 7, seed=1).t(), draw(33, 7).t(), one, 0.01, 0.8),
            "long": (draw(3, 6007, seed=1), draw(3, 6007), one, 0.01, 0.8),
        }

    def truth(self, grad: Tensor, x: Tensor, range: Tensor, decay: float, keep: float) -> tuple[Tensor, Tensor]:
        g, v, r = grad.double(), x.double(), range.double()
        outside = v.abs() > r
        settled = (~outside).double().mean() >= keep
        to_range = g[v > r].sum() - g[v < -r].sum() + (decay * r.sum() if settled else 0.0)
        return g.masked_fill(outside, 0.0), to_range.reshape(range.shape)


def gradients(x: Tensor, r: Tensor, decay: float, keep: float) -> tuple[Tensor, ...]:
    x, r = x.clone().requires_grad_(), r.clone().requires_grad_()
    (torch.ops.phasegrad.dac(x, r, MAX_CODE, decay, keep) * draw(*x.shape, seed=1)).sum().backward()
    return x.grad, r.grad


def clamp_gradients(x: Tensor, r: Tensor) -> tuple[Tensor, ...]:
    """Rounding taken for the identity, autograd does the rest."""
    x, r = x.double().requires_grad_(), r.double().requires_grad_()
    bound = r.reshape(-1, *[1] * (x.dim() - 1))
    (torch.minimum(torch.maximum(x, -bound), bound) * draw(*x.shape, seed=1)).sum().backward()
    return x.grad, r.grad


@pytest.mark.parametrize("shape", [(7, 33), (2, 3, 5, 5), (1, 2000)], ids=str)
def test_gradient_is_that_of_clipping(shape: tuple[int, ...]) -> None:
    x, r = draw(*shape), torch.tensor([1.1])
    for got, want in zip(gradients(x, r, 0.5, 1.0), clamp_gradients(x, r), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", [(9, 33), (9, 9), (9, 3, 5, 5)], ids=str)
def test_gradient_is_that_of_clipping_with_a_range_each_row(shape: tuple[int, ...]) -> None:
    x, r = draw(*shape), draw(9, seed=2).abs() + 0.2
    for got, want in zip(gradients(x, r, 0.5, 1.0), clamp_gradients(x, r), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("clipped", range(0, 21))
@pytest.mark.parametrize("keep", [0.95, 0.9, 0.7])
def test_range_decays_when_enough_inputs_lie_inside(clipped: int, keep: float) -> None:
    x = torch.full((20,), 0.5)
    x[:clipped] = 3.0
    r = torch.tensor([2.0], requires_grad=True)
    torch.ops.phasegrad.dac(x, r, MAX_CODE, 0.25, keep).backward(torch.zeros(20))
    assert r.grad.item() == (0.5 if (20 - clipped) * 100 >= round(keep * 100) * 20 else 0.0)


def test_an_input_at_the_range_lies_inside() -> None:
    grad_x, grad_range = gradients(torch.tensor([1.5, -1.5]), torch.tensor([1.5]), 0.0, 1.0)
    assert grad_x.tolist() == draw(2, seed=1).tolist()
    assert grad_range.item() == 0.0


def test_an_input_that_is_nan_makes_the_gradient_of_the_range_nan() -> None:
    _, grad_range = gradients(torch.tensor([1.0, torch.nan]), torch.tensor([1.5]), 0.1, 0.0)
    assert grad_range.isnan().all()


def test_no_inputs_leave_the_range_alone() -> None:
    r = torch.tensor([2.0], requires_grad=True)
    torch.ops.phasegrad.dac(torch.empty(0, 3), r, MAX_CODE, 0.25, 0.9).sum().backward()
    assert r.grad.item() == 0.0
