"""The distributed example on a subset of real data, run by torchrun."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))
_data, _fetch = (importlib.import_module(m) for m in ("_data", "_fetch"))

pytestmark = pytest.mark.example


@pytest.mark.parametrize("store", ["hardware-aware", "in-memory"])
def test_two_processes_learn_and_save_checkpoints(store: str, tmp_path: Path) -> None:
    if _fetch.faults(_data.MNIST, _fetch.cache_folder() / _data.MNIST.name):
        pytest.skip("MNIST is not in the cache: python examples/_data.py --fetch mnist")
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    line += [str(EXAMPLES / "distributed.py"), "--store", store, "--images", "1600", "--epochs", "2"]
    line += ["--batch", "16", "--every", "100", "--out", str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    accuracy = re.search(r"2 process\(es\): test accuracy ([\d.]+) %", done.stdout)
    assert accuracy is not None
    assert float(accuracy[1]) > 60.0
    files = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.pt"))
    assert files == [f"rank{r}-of-2/step-000000{step}.pt" for r in range(2) for step in ("100", "200")]
