"""Figure of the correlated noise of a device."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from phasegrad.devices import PCM, DeviceState, trace
from phasegrad.drawing import new_figure, save_figure

_DEVICES = 4000
_START = 1e4  # age of the first read [s]


def noise_over_time(
    device: PCM, path: str | os.PathLike[str] | None = None, *, fraction: float = 0.5, seed: int = 0
) -> Any:
    """Draw reads of a device with correlated noise on three time scales, and the covariance of reads against their lag.

    Args:
        device: device with ``correlated_noise``, ``telegraph`` or both.
        path: path of the image file, or ``None`` to write none.
        fraction: programmed conductance relative to ``g_max``.
        seed: seed of the draws.

    Returns:
        The matplotlib figure: traces of two devices over a millisecond, a second and an hour, with their programmed
        conductance; and the covariance of two reads against the time between them, sampled from 4,000 devices at an
        age of 1e4 s, with the law. Covariances are relative to the sampled variance.
    """
    figure: Any = new_figure(10.0, 5.4)
    parts = figure.subplot_mosaic([["ms", "s", "h"], ["lags", "lags", "lags"]])
    state = DeviceState(torch.full((2,), fraction * device.g_max), torch.zeros(2))
    for name, span, unit in (("ms", 1e-3, "ms"), ("s", 1.0, "s"), ("h", 3600.0, "min")):
        _reads(parts[name], device, state, span, unit, torch.tensor([seed]))
    _correlation(parts["lags"], device, fraction, torch.tensor([seed + 1]))
    for axes in parts.values():
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92", lw=0.8)
        axes.set_axisbelow(True)
    if path is not None:
        save_figure(figure, path)
    return figure


def _reads(axes: Any, device: PCM, state: DeviceState, span: float, unit: str, key: Tensor) -> None:
    since = torch.linspace(0.0, span, 2000, dtype=torch.float64)
    seen = trace(device, state, _START + since, key) * 1e6
    shown = since * {"ms": 1e3, "s": 1.0, "min": 1.0 / 60.0}[unit]
    for reads, colour in zip(seen.t(), ("#0072B2", "#D55E00"), strict=True):
        axes.plot(shown, reads, color=colour, lw=0.5)
    axes.axhline(float(state.conductance[0]) * 1e6, color="0.4", lw=0.8, ls="--")
    axes.set(xlabel=f"time ({unit})", ylabel="conductance (µS)")


def _correlation(axes: Any, device: PCM, fraction: float, key: Tensor) -> None:
    lags = torch.logspace(-7, 6, 53, dtype=torch.float64)
    ages = _START + torch.cat((torch.zeros(1, dtype=torch.float64), lags))
    state = DeviceState(torch.full((_DEVICES,), fraction * device.g_max), torch.zeros(_DEVICES))
    seen = trace(device, state, ages, key).double()
    seen = seen / state.conductance - 1.0
    scale = seen[0].square().mean()
    axes.plot(lags, (seen[1:] * seen[0]).mean(1) / scale, "o", ms=3.5, color="#0072B2", label="sampled, 4,000 devices")
    if device.correlated_noise is not None and device.read_noise is not None:
        q = float(device.read_noise(torch.tensor(fraction))) ** 2
        late = lags[lags > 10.0 * device.t_read]
        axes.plot(late, q * torch.log1p(2.0 * _START / late) / scale, color="#D55E00", lw=1.4, label="Q² ln(1 + 2T/τ)")
    axes.axvline(_START, color="0.4", lw=0.8, ls=":")
    axes.set(
        xscale="log", xlabel="time τ between two reads, the first at T = 10⁴ s (s)", ylabel="covariance over variance"
    )
    axes.legend(frameon=False, fontsize=8)
