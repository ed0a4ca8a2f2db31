"""The product of one row of inputs with weights whose reads have means and variances, in one call of the kernels.

A row is so little work that the ops ``dac``, ``row_products`` and ``adc`` one after another take longer than it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from phasegrad.ops import workspace
from phasegrad.ops.cpu.calls import all_floats, call
from phasegrad.ops.direct import bypasses, is_plain
from phasegrad.ops.lazy_copies import address
from phasegrad.ops.native import library


def row_linear(
    x: Tensor, mean: Tensor, variance: Tensor, scale: Tensor, gain: Tensor | None, input_range: Tensor,
    dac_max_code: float, bound: Tensor, seed: Tensor, offset: int, rows: int, output_noise: float, read_noise: float,
    mode: int, max_code: float,
) -> Tensor | None:  # fmt: skip
    """The output ``[1, out]`` of all row tiles together: what the three ops compute, to the bit.

    Args:
        x: inputs ``[1, in]``.
        mean: means of the weights ``[out, in]``.
        variance: their variances over the scale of their column, of the same shape.
        scale: scales ``[row tiles, out]``.
        gain: ``[row tiles, out]``, or ``None``.
        input_range: range of the inputs, one element.
        dac_max_code: largest code of the inputs' converter; 0 for none.
        bound: range of the outputs' converter, one element.
        seed: seed of the noise.
        offset: random stream of the first tile's noise.
        rows: inputs per tile.
        output_noise: output noise.
        read_noise: factor of the read noise.
        mode: mode of the outputs' converter.
        max_code: its largest code.

    Returns:
        ``None`` if the compiled kernels do not run on these tensors.
    """
    floats = [x, mean, scale, input_range, bound, *([] if gain is None else [gain])]
    tensors = (*floats, variance)
    if library is None or not bypasses() or not all(is_plain(t) and t.is_contiguous() for t in tensors):
        return None
    brains = variance.dtype == torch.bfloat16
    if not all_floats(*floats) or not (brains or all_floats(variance)):
        return None
    if input_range.numel() != 1 or x.shape != (1, mean.shape[1]) or not is_plain(seed):
        return None
    out = x.new_empty(1, len(mean))
    room = workspace.scratch("row", torch.float32, mean.shape[1] + 2 * len(scale) * len(mean))
    call(
        "row_linear", out.data_ptr(), room.data_ptr(), address(x), address(mean), address(variance), int(brains),
        address(scale), None if gain is None else address(gain), address(input_range), *mean.shape, rows,
        dac_max_code, output_noise, read_noise, float(bound), mode, max_code, int(seed), offset,
    )  # fmt: skip
    return out
