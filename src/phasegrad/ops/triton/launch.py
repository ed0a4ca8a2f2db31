"""Launches of Triton kernels: grid sizes, the device, and which tensors the kernels take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

BLOCKS = 256
"""Blocks of random numbers that a program of an elementwise kernel computes; a power of two, at least 16."""

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What the kernels of converters and weights read and write; they compute in float32."""


def all_floats(*tensors: Tensor | None) -> bool:
    """Whether all tensors are float32."""
    return all(t is None or t.dtype == torch.float32 for t in tensors)


def all_taken(*tensors: Tensor | None) -> bool:
    """Whether all tensors have a dtype that kernels with arithmetic in float32 take."""
    return all(t is None or t.dtype in KERNEL_DTYPES for t in tensors)


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, like: Tensor, **constants: Any) -> None:
    """Run a kernel on the device of a tensor, unless there is nothing to compute.

    Args:
        kernel: the kernel.
        grid: number of programs in up to three dimensions.
        arguments: tensors and numbers, in the order of the kernel.
        like: a tensor on the device that computes.
        constants: the kernel's compile-time constants.
    """
    if 0 in grid:
        return
    # As in the C++ kernels, a product and a sum are rounded separately, except where a kernel says tl.fma.
    if like.device.type == "cpu":  # Triton's interpreter, which computes with numpy
        with np.errstate(all="ignore"):  # a GPU does not warn of infinities
            kernel[grid](*arguments, **constants)
    elif like.device.index != torch.cuda.current_device():
        with torch.cuda.device(like.device):
            kernel[grid](*arguments, **constants, enable_fp_fusion=False)
    else:
        kernel[grid](*arguments, **constants, enable_fp_fusion=False)


def flat_grid(count: int, blocks: int) -> tuple[int]:
    """Programs for ``count`` values of a stream, ``blocks`` blocks of four values each."""
    return (-(-count // (4 * blocks)),)


Kernel = Callable[..., Any]
