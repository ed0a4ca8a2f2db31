"""What is drawn of a fit: measured points, and the fitted law next to them."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from phasegrad.devices.fitting.measurements import Measurements
from phasegrad.devices.fitting.parts import Devices
from phasegrad.devices.fitting.result import Panel
from phasegrad.devices.pcm import PCM

_Z90 = 1.6449


def programming_panel(of: Devices, device: PCM) -> Panel:
    """Programming error against target."""
    g = torch.linspace(0.0, float(of.g.max()), 101, dtype=torch.float64)
    sd = sum(c * g**k for k, c in enumerate(device.programming_sd)) * torch.ones_like(g) * 1e6
    x = (g * device.g_max * 1e6).numpy()
    band = (np.maximum(-_Z90 * sd.numpy(), -x), _Z90 * sd.numpy())
    return Panel(
        "programming", "target (µS)", "error (µS)", (of.g * device.g_max * 1e6).numpy(), of.error.numpy(), x,
        np.zeros_like(x), band,
    )  # fmt: skip


def drift_panels(found: Measurements, of: Devices, device: PCM, programmed: bool) -> tuple[Panel, ...]:
    """Exponents against target, read noise against conductance, and the programming error if there are targets."""
    g = torch.linspace(float(of.g.min()), float(of.g.max()), 101, dtype=torch.float64)
    mean, sd = device.nu_mean(g), device.nu_sd(g)
    noise = device.read_noise(of.programmed).square() * of.nu_variance if device.read_noise else torch.zeros_like(of.nu)
    spread = _Z90 * (sd.square() + _smooth(of.g, noise, g)).sqrt()
    x = (g * device.g_max * 1e6).numpy()
    label, band = "target" if programmed else "conductance", ((mean - spread).numpy(), (mean + spread).numpy())
    at = (of.g * device.g_max * 1e6).numpy()
    exponents = Panel("drift exponent", f"{label} (µS)", "exponent", at, of.nu.numpy(), x, mean.numpy(), band)
    panels = (exponents, *((_noise_panel(of, device),) if device.read_noise else ()))
    return (programming_panel(of, device), *panels) if programmed else panels


def _noise_panel(of: Devices, device: PCM) -> Panel:
    g = torch.linspace(float(of.programmed.min()), float(of.programmed.max()), 101, dtype=torch.float64)
    assert device.read_noise is not None
    law = device.read_noise(g)
    spread = _Z90 / math.sqrt(2.0 * float(of.freedom.mean()))
    return Panel(
        "read noise", "conductance (µS)", "relative noise Q", of.conductance.numpy(),
        (of.residual / of.freedom).sqrt().numpy(), (g * device.g_max * 1e6).numpy(), law.numpy(),
        ((law * max(1.0 - spread, 0.0)).numpy(), (law * (1.0 + spread)).numpy()),
    )  # fmt: skip


def _smooth(x: Tensor, y: Tensor, at: Tensor) -> Tensor:
    """Interpolated values of scattered points, in order of ``x``."""
    order = x.argsort()
    return torch.from_numpy(np.interp(at.numpy(), x[order].numpy(), y[order].numpy()))
