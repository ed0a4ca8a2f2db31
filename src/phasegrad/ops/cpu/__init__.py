"""The ops on the CPU, through the C++ kernels for float32; every other dtype uses the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from phasegrad.ops.cpu.converters import (
    adc,
    adc_backward,
    dac,
    dac_backward,
    noisy_weights,
    noisy_weights_backward,
    normal,
    uniform,
    weight_scale,
)
from phasegrad.ops.cpu.devices import (
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
from phasegrad.ops.cpu.product import (
    tile_linear,
    tile_linear_backward,
)

KERNELS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        normal,
        uniform,
        dac,
        dac_backward,
        leak,
        adc,
        adc_backward,
        tile_linear,
        tile_linear_backward,
        weight_scale,
        noisy_weights,
        noisy_weights_backward,
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
