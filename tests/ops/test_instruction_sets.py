"""Every instruction set computes the same bits, so results do not depend on the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contracts.op import KernelContract, same_bits, tensors
from tests.ops import test_adc, test_dac, test_pcm, test_philox, test_weights

from phasegrad.ops.native import library

pytestmark = pytest.mark.skipif(library is None, reason="no compiled kernels")

KERNELS: list[type[KernelContract]] = [
    test_philox.TestNormal,
    test_philox.TestUniform,
    test_dac.TestDac,
    test_dac.TestDacBackward,
    test_adc.TestAdc,
    test_adc.TestAdcBackward,
    test_weights.TestWeightScale,
    test_weights.TestNoisyWeights,
    test_weights.TestNoisyWeightsBackward,
    test_pcm.TestPcmProgram,
    test_pcm.TestPcmRead,
]
SUPPORTED = {"AVX2": ["baseline", "avx2"], "AVX512": ["baseline", "avx2", "avx512"]}

CHILD = """
import sys, torch
from phasegrad.ops import backends, native
folder = sys.argv[1]
calls = torch.load(folder + "/calls.pt", weights_only=True)
results = {name: [getattr(torch.ops.phasegrad, name)(*call) for call in group] for name, group in calls.items()}
torch.save((native.library.pg_isa().decode(), results), folder + "/results.pt")
"""


def calls() -> dict[str, list[Any]]:
    return {kernel.name: list(kernel().samples().values()) for kernel in KERNELS}


@pytest.mark.parametrize("isa", SUPPORTED.get(torch.backends.cpu.get_cpu_capability(), ["baseline"]))
def test_instruction_set_does_not_show(isa: str, tmp_path: Path) -> None:
    torch.save(calls(), tmp_path / "calls.pt")
    environment = os.environ | {"PHASEGRAD_ISA": isa, "PHASEGRAD_BACKEND": "native"}
    subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], env=environment, check=True, timeout=120)
    used, there = torch.load(tmp_path / "results.pt", weights_only=True)
    assert used == isa
    for kernel in KERNELS:
        for (sample, call), result in zip(kernel().samples().items(), there[kernel.name], strict=True):
            here = getattr(torch.ops.phasegrad, kernel.name)(*call)
            assert same_bits(tensors(here), tensors(result)), f"{kernel.name}, {sample}"
