"""The Triton kernels for tests: on a GPU where there is one, otherwise in Triton's interpreter."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from phasegrad.ops import arguments

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def triton_kernel(name: str) -> Callable[..., Any]:
    """The Triton kernel of an op, with the flat arguments of its schema, which may be on the CPU."""
    kernel = importlib.import_module("phasegrad.ops.triton").KERNELS[name]
    return arguments.flat(name, kernel)


def on_device(argument: Any) -> Any:
    """Tensors copied to the device that the kernels run on, with their strides."""
    return tree_map(lambda a: a.to(DEVICE) if isinstance(a, Tensor) else a, argument)


def run_kernel(name: str, *call: Any) -> Any:
    """The results of a Triton kernel, on the CPU."""
    results = triton_kernel(name)(*on_device(call))
    return tree_map(lambda a: a.cpu() if isinstance(a, Tensor) else a, results)
