"""The ops on CUDA, through Triton kernels.

Importing this package needs Triton; ``phasegrad.ops.cuda`` decides whether and when it is imported. A kernel reads
seeds, levels and ranges from device memory, so that no op waits for the device. Float64 uses the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from phasegrad.ops.triton.cells import noisy_cells, pcm_cells
from phasegrad.ops.triton.converters import adc, adc_backward, dac, dac_backward
from phasegrad.ops.triton.devices import pcm_moments, pcm_program, pcm_read
from phasegrad.ops.triton.draws import normal, uniform
from phasegrad.ops.triton.product import tile_linear, tile_linear_backward
from phasegrad.ops.triton.pulses import pulse_counts, pulsed_update
from phasegrad.ops.triton.rows import rectified_cells, row_products
from phasegrad.ops.triton.sums import leak, weighted_sum
from phasegrad.ops.triton.trains import pulse_trains
from phasegrad.ops.triton.weights import noisy_weights, noisy_weights_backward, weight_scale

KERNELS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        normal,
        uniform,
        dac,
        dac_backward,
        adc,
        adc_backward,
        weight_scale,
        noisy_weights,
        noisy_weights_backward,
        tile_linear,
        tile_linear_backward,
        leak,
        noisy_cells,
        pcm_cells,
        pcm_moments,
        pcm_program,
        pcm_read,
        pulse_counts,
        pulse_trains,
        pulsed_update,
        rectified_cells,
        row_products,
        weighted_sum,
    )
}
