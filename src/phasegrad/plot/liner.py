"""Figure of the effect of a projection liner on a phase-change device."""

from __future__ import annotations

import os
from typing import Any

import torch

from phasegrad.devices import PCM, projected
from phasegrad.drawing import new_figure, save_figure


def projection(
    device: PCM, path: str | os.PathLike[str] | None = None, *, reset: float = 0.1e-6, largest: float = 5e-6
) -> Any:
    """Draw drift, noise and window of projected devices.

    Args:
        device: device without a liner.
        path: path of the image file, or ``None`` to write none.
        reset: conductance in the full RESET state without a liner [S].
        largest: largest liner conductance to draw [S].

    Returns:
        The matplotlib figure: drift exponent and, if the device has ``read_noise``, relative noise against conductance
        for four liners; then both in the RESET state, and the window ``g_max / g_min``, against the liner conductance.
    """
    figure: Any = new_figure(10.0, 3.2)
    drift, noise, cost = figure.subplots(1, 3)
    colours = ("#000000", "#0072B2", "#D55E00", "#009E73")
    for liner, colour in zip((0.0, 0.04 * largest, 0.2 * largest, largest), colours, strict=True):
        lined = projected(device, liner=liner, reset=reset)
        g = torch.logspace(0.0, 1.0, 300, base=lined.g_max / lined.g_min) * (lined.g_min / lined.g_max)
        label = f"{liner * 1e6:.2g} µS" if liner else "no liner"
        drift.plot(g * lined.g_max * 1e6, lined.nu_mean(g), color=colour, lw=1.4, label=label)
        if lined.read_noise is not None:
            noise.plot(g * lined.g_max * 1e6, lined.read_noise(g), color=colour, lw=1.4)
    drift.set(xscale="log", xlabel="conductance (µS)", ylabel="drift exponent ν", title="drift", ylim=(0.0, None))
    drift.legend(frameon=False, fontsize=8)
    noise.set(xscale="log", yscale="log", xlabel="conductance (µS)", ylabel="relative 1/f noise Q", title="noise")
    _cost(cost, device, reset, largest)
    for axes in (drift, noise, cost):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92", lw=0.8)
        axes.set_axisbelow(True)
    if path is not None:
        save_figure(figure, path)
    return figure


def _cost(axes: Any, device: PCM, reset: float, largest: float) -> None:
    """Draw the figures of the RESET state relative to those without a liner."""
    liners = torch.linspace(0.0, largest, 101).tolist()
    lined = [projected(device, liner=liner, reset=reset) for liner in liners]
    at_reset = [torch.tensor(d.g_min / d.g_max) for d in lined]
    curves = {
        "ν of RESET": [float(d.nu_mean(g)) for d, g in zip(lined, at_reset, strict=True)],
        "Q of RESET": [float(d.read_noise(g)) for d, g in zip(lined, at_reset, strict=True) if d.read_noise],
        "window": [d.g_max / d.g_min for d in lined],
    }
    styles = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-"))  # the first two curves coincide
    for (label, values), (colour, ls) in zip(curves.items(), styles, strict=True):
        if values:
            relative = [v / values[0] for v in values]
            axes.plot([x * 1e6 for x in liners], relative, color=colour, ls=ls, lw=1.4, label=label)
    axes.set(xlabel="liner (µS)", ylabel="relative to no liner", yscale="log", title="RESET state")
    axes.legend(frameon=False, fontsize=8)
