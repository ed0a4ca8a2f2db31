"""One row of inputs in one call of the kernels: what the ops one after another compute, to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from phasegrad.ops.direct import bypasses, call
from phasegrad.ops.native import library
from phasegrad.ops.row_linear import row_linear

pytestmark = pytest.mark.skipif(library is None or not bypasses(), reason="needs the compiled kernels, called directly")
RANGE, BOUND, SEED, OFFSET = torch.tensor([1.3]), torch.tensor([3.0]), torch.tensor([7]), 1 << 32


def _weights(
    out: int, features: int, rows: int, *, gain: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    tiles = -(-features // rows)
    mean, variance = torch.randn(out, features), torch.rand(out, features).to(dtype)
    return mean, variance, torch.rand(tiles, out) + 0.5, torch.rand(tiles, out) if gain else None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dac", [0.0, 127.0])
@pytest.mark.parametrize("mode", [0, 1, 2, 3, 4])
@pytest.mark.parametrize(("out", "features", "rows"), [(70, 300, 128), (1, 64, 7), (2000, 96, 96)])
def test_equals_the_ops_one_after_another(
    out: int, features: int, rows: int, mode: int, dac: float, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, features)
    mean, variance, scale, gain = _weights(out, features, rows, gain=mode != 1, dtype=dtype)
    settings = (0.04, 1.0, mode, 127.0)
    found = row_linear(x, mean, variance, scale, gain, RANGE, dac, BOUND, SEED, OFFSET, rows, *settings)
    driven = call("dac", x, RANGE, dac, 0.0, 1.0) if dac else x
    y, v = call("row_products", driven[0], mean, variance, rows)
    tiles = (list(y.unsqueeze(1).unbind()), list(v.unsqueeze(1).unbind()))
    assert found is not None
    assert torch.equal(found, call("adc", *tiles, scale, gain, RANGE, BOUND, SEED, OFFSET, *settings)[0])


@pytest.mark.parametrize("change", ["dtype", "rows", "strided", "ranges"])
def test_leaves_what_the_kernels_do_not_take_to_the_ops(change: str) -> None:
    x, (mean, variance, scale, gain) = torch.randn(1, 64), _weights(8, 64, 64, gain=True, dtype=torch.float32)
    x = {"dtype": x.double(), "rows": x.expand(2, -1).clone(), "strided": torch.randn(1, 128)[:, ::2]}.get(change, x)
    ranges = RANGE.expand(2).clone() if change == "ranges" else RANGE
    arguments = (ranges, 127.0, BOUND, SEED, OFFSET, 64, 0.04, 1.0, 1, 127.0)
    assert row_linear(x, mean, variance, scale, gain, *arguments) is None
