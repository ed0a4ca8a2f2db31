from __future__ import annotations

import ctypes
import logging

import pytest
import torch

from phasegrad.ops import backends, native


def test_backends_say_what_computes() -> None:
    cpu = backends()["cpu"]
    if native.library is None:
        assert cpu == "torch reference"
    else:
        assert cpu in {f"native ({isa})" for isa in ("baseline", "avx2", "avx512")}


def test_every_kernel_has_a_signature_that_ends_in_the_threads() -> None:
    assert all(signature[-1] is ctypes.c_int for signature in native._SIGNATURES.values())


def test_unknown_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHASEGRAD_BACKEND", "gpu")
    with pytest.raises(ImportError, match=r"PHASEGRAD_BACKEND = 'gpu'; it can be 'native', 'reference'"):
        native._load()


def test_native_is_refused_where_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHASEGRAD_BACKEND", "native")
    monkeypatch.setattr(native, "_find", lambda: None)
    with pytest.raises(ImportError, match="not installed; install a C\\+\\+ compiler"):
        native._load()


@pytest.mark.parametrize(("wish", "reason"), [("reference", "as PHASEGRAD_BACKEND asks"), ("", "no compiled kernels")])
def test_one_line_says_that_the_reference_computes(
    wish: str, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PHASEGRAD_BACKEND", wish)
    monkeypatch.setattr(native, "_find", lambda: None)
    with caplog.at_level(logging.INFO, logger="phasegrad"):
        assert native._load() is None
    assert len(caplog.records) == 1
    assert reason in caplog.text


def test_loading_leaves_subnormal_numbers_alone() -> None:
    # A library linked with -ffast-math sets flush-to-zero for the whole process when it is loaded.
    assert (torch.tensor([1e-40]) * 0.5).item() > 0.0
    assert 5e-324 * 1.0 > 0.0
