"""Figure of the statistics of a device."""

from __future__ import annotations

import os
from typing import Any

import torch

from phasegrad.devices import Device
from phasegrad.drawing import new_figure, save_figure


def device_statistics(
    device: Device, path: str | os.PathLike[str] | None = None, *, samples: int = 2000, seed: int = 0
) -> Any:
    """Draw samples of the programming, drift and read noise of a device.

    Args:
        device: the device.
        path: path of the image file, or ``None`` to write none.
        samples: number of devices per conductance.
        seed: seed of the draws.

    Returns:
        The matplotlib figure: programmed against target conductance, conductance over time (both with a band from the
        5th to the 95th percentile), and relative standard deviation of reads after an hour.
    """
    key = torch.tensor([seed])
    figure = new_figure(10.0, 3.2)
    programmed, drift, reads = figure.subplots(1, 3)
    _programming(programmed, device, samples, key)
    _drift(drift, device, samples, key)
    _reads(reads, device, samples, key)
    for axes in (programmed, drift, reads):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92", lw=0.8)
        axes.set_axisbelow(True)
    if path is not None:
        save_figure(figure, path)
    return figure


def _levels(device: Device, count: int, samples: int) -> torch.Tensor:
    return torch.linspace(0.0, device.g_max, count).unsqueeze(1).expand(count, samples).contiguous()


def _programming(axes: Any, device: Device, samples: int, key: torch.Tensor) -> None:
    target = _levels(device, 41, samples)
    programmed = device.program(target, key, 0).conductance * 1e6
    x = target[:, 0] * 1e6
    low, high = torch.quantile(programmed, 0.05, dim=1), torch.quantile(programmed, 0.95, dim=1)
    axes.fill_between(x, low, high, color="#0072B2", alpha=0.2, lw=0, label="5 to 95 %")
    axes.plot(x, programmed.mean(1), color="#0072B2", lw=1.4, label="mean")
    axes.plot(x, x, color="0.4", lw=0.8, ls="--", label="target")
    axes.set(xlabel="target conductance (µS)", ylabel="programmed (µS)", title="programming")
    axes.legend(frameon=False, fontsize=8)


def _drift(axes: Any, device: Device, samples: int, key: torch.Tensor) -> None:
    times = torch.logspace(0, 7.5, 40, dtype=torch.float64)
    for fraction, colour in ((1.0, "#0072B2"), (0.5, "#D55E00"), (0.15, "#009E73")):
        state = device.program(torch.full((samples,), fraction * device.g_max), key, 0)
        g = torch.stack([device.drift(state, t) for t in times]) * 1e6
        low, high = torch.quantile(g, 0.05, dim=1), torch.quantile(g, 0.95, dim=1)
        axes.fill_between(times, low, high, color=colour, alpha=0.15, lw=0)
        axes.plot(times, g.mean(1), color=colour, lw=1.4, label=f"{fraction * device.g_max * 1e6:.3g} µS")
    axes.set(xscale="log", xlabel="time since programming (s)", ylabel="conductance (µS)", title="drift")
    axes.legend(frameon=False, fontsize=8, title="target", title_fontsize=8)


def _reads(axes: Any, device: Device, samples: int, key: torch.Tensor) -> None:
    target = _levels(device, 40, samples)[1:]
    state = device.program(target, key, 0)
    hour = torch.tensor(3600.0, dtype=torch.float64)
    device.advance(state, 0.0, 3600.0, key + 1, 0)
    mean = device.drift(state, hour)
    deviation = (device.read(state, hour, key, 2) - mean).square().mean(1).sqrt() / mean.mean(1)
    axes.plot(target[:, 0] * 1e6, deviation * 100, color="#0072B2", lw=1.4)
    axes.set(xlabel="target conductance (µS)", ylabel="read noise (% of conductance)", title="read noise after 1 h")
    axes.set_ylim(bottom=0)
