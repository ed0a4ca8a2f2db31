"""Projected phase-change memory: a conducting liner beside the phase-change material."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from phasegrad.devices.laws import Law, Table
from phasegrad.devices.pcm import PCM

_POINTS = 49


def projected(device: PCM, *, liner: float, reset: float = 0.1e-6) -> PCM:
    """The device with a liner, which carries the read current past the amorphous plug.

    A cell is its crystalline part, of the conductance ``g_max``, in series with the plug, of a resistance ``r`` that
    grows with its length; the liner lies along the plug, so that its own resistance grows with that length too. In
    every state the plug then carries the share ``s = G_plug / (G_plug + liner)`` of the current, where ``G_plug``
    belongs to full RESET, and the two in parallel have the resistance ``s r``:

    ``1/G = 1/g_max + r`` without a liner becomes ``1/G' = 1/g_max + s r``.

    What is measured without a liner is what plug and crystalline part do, each by its share of the voltage:
    ``nu(g) = (1 - g) nu_plug + g nu_c``, ``g = G/g_max``, with ``nu_c`` that of full SET. With it, therefore,
    ``nu' = (nu(g) - g nu_c) s^2 G'/G + g' nu_c``: the exponent of RESET falls as ``s``, that of SET stays. The
    spread of the exponent and the thermal activation energy follow the same rule; relative noise does in squares, for
    its sources are independent. The least conductance rises to ``g_min = 1/(1/g_max + s r_RESET)``, which is what the
    liner costs. The spread of programming, which a closed loop sets, stays as it is.

    Drift and noise fall and the window narrows so in Bruce et al. (2021) and Li et al. (2023), mostly at RESET; the
    circuit is the simplest that does it, and conductances of liner and RESET differ from cell to cell.

    Args:
        device: without a liner; its laws and ``t0`` are kept.
        liner: conductance of the liner along the plug of a device at full RESET [S]; 0 for none.
        reset: conductance of full RESET without a liner [S].

    Returns:
        A device with its ``g_min``, whose laws are tables of 49 points.

    Raises:
        ValueError: ``liner`` is negative, ``reset`` is not between 0 and ``g_max``, or the device has a ``g_min``.

    Examples:
        >>> from phasegrad.devices import joshi_2020
        >>> device = projected(joshi_2020(), liner=1.9e-6)
        >>> round(device.g_max / device.g_min, 1), device.nu_mean(torch.tensor([device.g_min / device.g_max]))
        (13.5, tensor([0.0083]))
    """
    _check(device, liner, reset)
    of_reset = 1.0 / reset - 1.0 / device.g_max
    share = 1.0 / (1.0 + liner * of_reset)
    lowest = 1.0 / (device.g_max * (1.0 / device.g_max + share * of_reset))
    after = torch.logspace(0.0, 1.0, _POINTS, base=1.0 / lowest, dtype=torch.float64) * lowest
    after[-1] = 1.0
    before = 1.0 / (1.0 + (1.0 / after - 1.0) / share)
    thermal = device.thermal
    if thermal is not None:
        energy = _table(thermal.conductance_energy, before, after, share)
        thermal = replace(thermal, conductance_energy=energy)
    return replace(
        device,
        g_min=lowest * device.g_max,
        nu_mean=_table(device.nu_mean, before, after, share),
        nu_sd=_table(device.nu_sd, before, after, share),
        read_noise=device.read_noise and _table(device.read_noise, before, after, share, power=2),
        thermal=thermal,
    )


def _table(law: Law, before: Tensor, after: Tensor, share: float, power: int = 1) -> Table:
    """What a law becomes whose plug and crystalline parts add up in this power."""
    of_set = law(torch.ones((), dtype=torch.float64)) ** power
    of_plug = law(before) ** power - before**power * of_set
    total = of_plug * (share**2 * after / before) ** power + after**power * of_set
    value = total if power == 1 else total.clamp(min=0.0).sqrt()
    return Table(g=tuple(after.tolist()), value=tuple(value.tolist()))


def _check(device: PCM, liner: float, reset: float) -> None:
    if not 0.0 <= liner < float("inf"):
        raise ValueError(f"projected: liner = {liner!r} S; it must be finite and not negative")
    if not 0.0 < reset < device.g_max:
        raise ValueError(f"projected: reset = {reset!r} S; it must be above 0 and below g_max = {device.g_max} S")
    if device.g_min:
        raise ValueError(f"projected: the device has g_min = {device.g_min} S already; give the one without a liner")
