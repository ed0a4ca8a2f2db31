"""Fingerprints of tensors: which writes they tell."""

from __future__ import annotations

import pytest
import torch

from phasegrad.ops import fingerprint as module
from phasegrad.ops.fingerprint import PARTS, fingerprint
from phasegrad.ops.native import library

SIZES = (1, 7, 4096, 4097, 70_001)


@pytest.fixture(params=["kernel", "torch"], autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to compute them."""
    if request.param == "torch":
        monkeypatch.setattr(module, "library", None)
    elif library is None:
        pytest.skip("no compiled kernels")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int8])
def test_a_write_is_told_by_the_part_it_is_in(size: int, dtype: torch.dtype) -> None:
    values = torch.arange(size).to(dtype)
    before = [fingerprint((values,), part) for part in range(PARTS)]
    for at in (0, size // 3, size - 1):
        numpy_safe = values.clone()
        numpy_safe[at] += 1
        changed = [fingerprint((numpy_safe,), part) != before[part] for part in range(PARTS)]
        assert any(changed) == (numpy_safe[at].item() != values[at].item())
        if values.nbytes <= 1 << 14:
            assert all(changed) or not any(changed)


def test_a_write_to_all_values_is_told_without_a_part() -> None:
    values = torch.randn(100_000)
    before = fingerprint((values,), None)
    values.numpy()[:] *= 2.0
    assert fingerprint((values,), None) != before


def test_an_exchange_of_two_tensors_or_values_is_told() -> None:
    a, b = torch.randn(100), torch.randn(100)
    assert fingerprint((a, b), 0) != fingerprint((b, a), 0)
    assert fingerprint((a,), 0) != fingerprint((a.flip(0),), 0)


def test_views_that_are_not_contiguous_are_read_in_their_order() -> None:
    matrix = torch.randn(300, 300)
    before = fingerprint((matrix.t(),), 5)
    assert fingerprint((matrix.t(),), 5) == before
    matrix.t()[0, 0] += 1.0
    assert any(fingerprint((matrix.t(),), part) != before for part in (0, 5))
