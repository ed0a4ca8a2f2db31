"""Checks of arguments that all kernels and the fakes share, before anything is computed."""

from __future__ import annotations

from collections.abc import Callable

from phasegrad.ops.checks.devices import (
    check_leak,
    check_moments,
    check_noisy_cells,
    check_pcm_cells,
    check_program,
    check_pulse_counts,
    check_pulsed_update,
    check_read,
    check_rectified_cells,
    check_row_products,
    check_trains,
    check_weighted_sum,
    check_wired,
    check_wired_backward,
)
from phasegrad.ops.checks.tiles import (
    check_adc,
    check_adc_backward,
    check_dac,
    check_dac_backward,
    check_noisy_weights,
    check_noisy_weights_backward,
    check_random,
    check_tile_linear,
    check_tile_linear_backward,
    check_weight_scale,
)

CHECKS: dict[str, Callable[..., None]] = {
    "normal": check_random,
    "uniform": check_random,
    "dac": check_dac,
    "adc": check_adc,
    "weight_scale": check_weight_scale,
    "noisy_weights": check_noisy_weights,
    "dac_backward": check_dac_backward,
    "adc_backward": check_adc_backward,
    "noisy_weights_backward": check_noisy_weights_backward,
    "tile_linear": check_tile_linear,
    "tile_linear_backward": check_tile_linear_backward,
    "pcm_program": check_program,
    "pcm_read": check_read,
    "pcm_moments": check_moments,
    "pcm_cells": check_pcm_cells,
    "noisy_cells": check_noisy_cells,
    "rectified_cells": check_rectified_cells,
    "row_products": check_row_products,
    "pulse_trains": check_trains,
    "pulsed_update": check_pulsed_update,
    "pulse_counts": check_pulse_counts,
    "weighted_sum": check_weighted_sum,
    "leak": check_leak,
    "wired_conductance": check_wired,
    "wired_conductance_backward": check_wired_backward,
}
