"""Which kernels compute on CUDA, and what is said where it is the reference."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.contracts.triton_kernels import needs_triton

from phasegrad.ops import backends, cpu, cuda


@pytest.fixture(autouse=True)
def _chosen_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("PHASEGRAD_BACKEND", raising=False)
    cuda.kernels.cache_clear()
    yield
    cuda.kernels.cache_clear()


def pretend(monkeypatch: pytest.MonkeyPatch, *capabilities: tuple[int, int]) -> None:
    """Pretend that GPUs of these compute capabilities are present."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i=0: capabilities[i])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i=0: f"GPU {i}")


def without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "triton" else find(name, *rest)
    )


def test_an_old_gpu_leaves_the_reference_and_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pretend(monkeypatch, (9, 0), (7, 5))
    with caplog.at_level(logging.INFO, logger="phasegrad"):
        assert cuda.kernels() == cuda.kernels() == {}
    assert len(caplog.records) == 1
    assert "GPU 1 has compute capability 7.5, and the kernels need 8.0" in caplog.text
    assert backends()["cuda"].startswith("torch reference (GPU 1 has compute capability 7.5")


def test_without_triton_the_reference_computes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pretend(monkeypatch, (9, 0))
    without_triton(monkeypatch)
    op = cuda.chosen("normal", lambda *arguments: arguments)
    with caplog.at_level(logging.INFO, logger="phasegrad"):
        assert op(1, 2) == (1, 2)
        assert op(3) == (3,)
    assert len(caplog.records) == 1
    assert "Triton is not installed; install triton" in caplog.text
    assert backends()["cuda"] == "torch reference (Triton is not installed; install triton)"


def test_the_reference_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, (9, 0))
    monkeypatch.setenv("PHASEGRAD_BACKEND", "reference")
    assert cuda.kernels() == {}
    assert backends()["cuda"] == "torch reference (as PHASEGRAD_BACKEND asks)"


def test_triton_on_request_is_an_error_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHASEGRAD_BACKEND", "triton")
    without_triton(monkeypatch)
    with pytest.raises(ImportError, match="PHASEGRAD_BACKEND = 'triton', but Triton is not installed; install triton"):
        cuda.kernels()


@needs_triton
def test_a_capable_gpu_uses_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, (9, 0))
    assert backends()["cuda"] == "triton (GPU 0)"
    names = set(cuda.kernels())
    assert {"normal", "tile_linear", "pulsed_update", "pcm_program"} <= names
    assert names <= {name.removeprefix("phasegrad::") for name in _ops()}


def _ops() -> list[str]:
    return [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("phasegrad::")]


@needs_triton
def test_every_op_with_a_kernel_on_the_cpu_has_one_on_cuda() -> None:
    assert set(cuda.kernels()) == set(cpu.KERNELS)


def python(*lines: str, **environment: str) -> Any:
    command = [sys.executable, "-c", "\n".join(lines)]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )


def test_importing_phasegrad_leaves_triton_and_cuda_alone() -> None:
    done = python(
        "import sys, torch, phasegrad",
        "assert not torch.cuda.is_initialized()",
        "assert 'triton' not in sys.modules",
    )
    assert done.returncode == 0, done.stderr


@needs_triton
def test_the_interpreter_on_request() -> None:
    done = python(
        "import torch, phasegrad as pg",
        "assert pg.backends()['cpu'] == 'triton (interpreter)'",
        "from phasegrad.ops import reference",
        "seed = torch.tensor([5])",
        "found = torch.ops.phasegrad.uniform(seed, 1, [70])",
        "assert torch.equal(found, reference.uniform(seed, 1, [70]))",
        PHASEGRAD_BACKEND="triton",
    )
    assert done.returncode == 0, done.stderr
