"""Compile the Triton kernels of some ops for a GPU that need not be present: ``python compile_for_gpu.py CAPABILITY``.

The interpreter accepts what the compiler refuses, such as a variable that changes its type in a loop, and has no
bfloat16.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from typing import Any

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from phasegrad.ops import pulses, trains
from phasegrad.ops import triton as kernels
from phasegrad.ops.arguments import PulsedState, StepLaw, TrackedWeight, TrainRule

SEED = torch.tensor([7])
compiled: list[str] = []


class AbsentGpu:
    """What the compiler asks of a driver."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0


def compile_instead(kernel: Any, grid: tuple[int, ...], *arguments: Any, like: Tensor, **constants: Any) -> None:
    """Take the place of ``launch``."""
    kernel.warmup(*arguments, grid=grid, enable_fp_fusion=False, **constants)
    compiled.append(kernel.fn.__name__)


def products(dtype: torch.dtype) -> None:
    run = kernels.KERNELS
    x, w = torch.randn(64, 1024, dtype=dtype), torch.randn(96, 1024)
    one, bound = torch.ones(1), torch.tensor([10.0])
    scale, clip = run["weight_scale"](w, 512, 512, True, 2.5, False)
    conversion = (one, 127.0, 0.0, 1.0, bound, SEED, 0, 1, 512, [0.1, 0.1, 0.0], 0.1, 0.04, 0.0175, 1, 127.0)
    out, code, read = run["tile_linear"](x, w, scale, clip, one, None, *conversion)
    run["tile_linear_backward"](out, code, x, read, w, clip, None, 512, (True, True))
    run["dac_backward"](x, x, one, 0.0, 1.0)


def devices() -> None:
    run = kernels.KERNELS
    conductance, law = torch.rand(2, 40, 64), [0.0, 1.0, *[0.0, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0] * 2]
    age = torch.tensor(60.0, dtype=torch.float64)
    run["pcm_program"](conductance, SEED, 0, 1.0, [0.1, 0.2, -0.1], law, law)
    run["pcm_read"](conductance, conductance, age, SEED, 0, 1.0, 20.0, 1e-7, law)
    run["weighted_sum"](conductance, None, [0.0, 1.0, -1.0], [], SEED, 0)
    state, tracked = PulsedState(conductance, None, None), TrackedWeight(None, None, [])
    rule, steps = TrainRule(0.05, 1e-3, 31, True, True, trains.STOCHASTIC), torch.tensor([0.3, 1.0, 1.0, 0.0])
    x, d = torch.randn(8, 64), torch.randn(8, 40)
    planes = StepLaw([0, 1], pulses.LINEAR, steps)
    run["pulsed_update"](state, tracked, torch.rand(4, 2, 40, 64), x, d, rule, 1.0, planes, SEED, 0)


def main(capability: int) -> None:
    driver.set_active(AbsentGpu(capability))  # type: ignore[arg-type]
    for found in pkgutil.iter_modules(kernels.__path__):
        module = importlib.import_module(f"{kernels.__name__}.{found.name}")
        if callable(getattr(module, "launch", None)):
            module.launch = compile_instead  # type: ignore[attr-defined]
    kernels.product._multiply = lambda a, b, out: None
    products(torch.bfloat16)
    devices()
    print(*sorted(set(compiled)))


if __name__ == "__main__":
    main(int(sys.argv[1]))
