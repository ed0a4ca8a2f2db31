"""The Triton kernels for tests: on a GPU where there is one, otherwise in Triton's interpreter."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from phasegrad.ops import arguments, native

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# The interpreter is slow: of the runs of all tests, only the one on the C++ kernels uses it, where there are such.
REPEATED = os.environ.get("PHASEGRAD_DISPATCH") == "always" or (
    os.environ.get("PHASEGRAD_BACKEND") == "reference" and native._find() is not None
)


MISSING = importlib.util.find_spec("triton") is None
needs_triton = pytest.mark.skipif(
    MISSING or (REPEATED and DEVICE.type == "cpu"),
    reason="Triton is not installed" if MISSING else "tested in the run on the C++ kernels",
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def triton_kernel(name: str) -> Callable[..., Any]:
    """The Triton kernel of an op, with the flat arguments of its schema, which may be on the CPU."""
    kernels = importlib.import_module("phasegrad.ops.triton").KERNELS
    if name not in kernels:
        pytest.skip("the reference computes on CUDA")
    return arguments.flat(name, kernels[name])


def on_device(argument: Any) -> Any:
    """Tensors copied to the device that the kernels run on, with their strides."""
    return tree_map(lambda a: a.to(DEVICE) if isinstance(a, Tensor) else a, argument)


def run_kernel(name: str, *call: Any) -> Any:
    """The results of a Triton kernel, on the CPU."""
    results = triton_kernel(name)(*on_device(call))
    return tree_map(lambda a: a.cpu() if isinstance(a, Tensor) else a, results)
