"""The op ``adc`` in the memory of its inputs, for outputs of tiles that nobody else needs.

A second array of the size of a layer's outputs costs more than its conversion where the system has to provide its
pages, and so does the array of clipped codes, which only gradients read.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from phasegrad.ops.checks import CHECKS
from phasegrad.ops.cpu.calls import all_floats
from phasegrad.ops.cpu.converters import convert
from phasegrad.ops.direct import KERNELS, bypasses, is_plain


def adc_in_place(
    y: Sequence[Tensor], v: Sequence[Tensor], scale: Tensor, gain: Tensor | None, input_range: Tensor, bound: Tensor,
    seed: Tensor, offset: int, output_noise: float, read_noise: float, mode: int, max_code: float,
) -> Tensor | None:  # fmt: skip
    """The first output of the op ``adc``, in the memory of ``y[0]``; its arguments, and the same values to the bit.

    Returns:
        ``None`` if the compiled kernels do not run on these tensors, or a gradient is recorded; nothing was written.
    """
    columns = [scale, input_range, bound, *([] if gain is None else [gain])]
    if "adc" not in KERNELS or not bypasses() or not all(is_plain(t) for t in (*y, *v, *columns, seed)):
        return None
    if not all_floats(*y, *v, *columns) or not all(t.is_contiguous() for t in (*y, *v)):
        return None
    if torch.is_grad_enabled() and any(t.requires_grad for t in (*y, *columns)):
        return None
    CHECKS["adc"](y, v, scale, gain, input_range, bound, seed, offset, output_noise, read_noise, mode, max_code)
    flat = (scale.contiguous(), None if gain is None else gain.contiguous(), input_range.contiguous())
    no_codes = torch.empty(0, dtype=torch.int8)
    settings = (output_noise, read_noise, float(bound), mode, max_code, int(seed))
    convert(y[0], no_codes, y, v, flat, 0, settings, offset)
    return y[0]
