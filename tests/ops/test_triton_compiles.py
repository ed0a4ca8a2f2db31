from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.contracts.triton_kernels import needs_triton

SCRIPT = Path(__file__).with_name("compile_for_gpu.py")


def assembler() -> Path:
    """The assembler that Triton's wheel contains."""
    spec = importlib.util.find_spec("triton")
    folder = Path(next(iter(spec.submodule_search_locations or ["."]))) if spec else Path()
    return Path(os.environ.get("TRITON_PTXAS_PATH", folder / "backends/nvidia/bin/ptxas"))


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(not os.access(assembler(), os.X_OK), reason="Triton's assembler cannot be executed")
def test_kernels_compile_for_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "90"], env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    names = done.stdout.split()
    for name in ("_adc", "_dac", "_noisy_weights", "_straight_through", "_row_sizes", "_unclipped"):
        assert name in names
    assert len(names) > 10
