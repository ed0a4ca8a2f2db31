"""Products of 16-bit inputs and a float32 matrix: only the operands are rounded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.contracts.op import SEED, draw
from tests.contracts.triton_kernels import needs_triton, run_kernel
from torch import Tensor

from phasegrad.ops import reference

LOW = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


def arguments(x: Tensor, mode: int = reference.NO_CONVERTER, *, noisy: bool = True, dac: float = 0.0) -> list[Any]:
    w = 0.3 * draw(9, 20, seed=1)
    scale = torch.stack([part.abs().amax(1) for part in w.split(8, dim=1)])
    clip, level = (torch.full((9,), 0.5), torch.ones(1)) if noisy else (None, None)
    units = (None, torch.tensor([1.3]), dac, 0.0, 1.0, torch.tensor([0.6]))
    return [x, w, scale, clip, level, *units, SEED, 3, 11, 8, (0.05, 0.0, 0.0), 0.0, 0.0, 0.0, mode, 127.0]


@LOW
@pytest.mark.parametrize("noisy", [True, False])
def test_sums_are_exact_sums_of_rounded_operands(dtype: torch.dtype, noisy: bool) -> None:
    x = draw(6, 20).to(dtype)
    call = arguments(x, noisy=noisy)
    out, _, read = torch.ops.phasegrad.tile_linear(*call)
    exact = reference.tile_linear(x.float(), *call[1:])[2] if noisy else call[1]
    assert out.dtype == dtype
    if noisy:
        assert torch.equal(read, exact.to(dtype))  # rounded once, after the noise
    torch.testing.assert_close(out, (x.double() @ exact.to(dtype).double().t()).to(dtype))


@LOW
def test_gradients_have_the_dtypes_of_their_tensors(dtype: torch.dtype) -> None:
    x = draw(6, 20).to(dtype).requires_grad_()
    call = arguments(x, reference.MID_TREAD, dac=127.0)
    call[1].requires_grad_()
    out = torch.ops.phasegrad.tile_linear(*call)[0]
    out.float().square().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == dtype
    assert call[1].grad.dtype == torch.float32
    assert call[1].grad.any()


@needs_triton
@pytest.mark.parametrize("mode", [reference.NO_CONVERTER, reference.MID_TREAD])
def test_triton_rounds_as_the_reference(mode: int) -> None:
    call = arguments(draw(6, 20).half(), mode)
    out, code, read = run_kernel("tile_linear", *call)
    wanted, wanted_code, wanted_read = reference.tile_linear(*call)
    assert out.dtype == read.dtype == torch.float16
    assert torch.equal(code, wanted_code)
    torch.testing.assert_close(read, wanted_read, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(out, wanted, rtol=2e-3, atol=2e-3 if mode == reference.NO_CONVERTER else 0.012)

    backward = (draw(*out.shape, seed=7).half(), code, call[0], read, call[1], call[3], None, 8, (True, True))
    found, expected = run_kernel("tile_linear_backward", *backward), reference.tile_linear_backward(*backward)
    for got, want in zip(found, expected, strict=True):
        assert got.dtype == want.dtype
        torch.testing.assert_close(got, want, rtol=2e-3, atol=2e-3)


@needs_triton
def test_levels_of_inputs_enter_a_product_exactly() -> None:
    call = arguments(draw(6, 20).half(), dac=127.0)
    out, _, read = run_kernel("tile_linear", *call)
    driven = reference.dac(call[0].float(), call[6], 127.0, 0.0, 1.0)  # as float16, inputs would lose a level at ties
    torch.testing.assert_close(out, (driven.double() @ read.double().t()).half(), rtol=1e-3, atol=1e-5)
