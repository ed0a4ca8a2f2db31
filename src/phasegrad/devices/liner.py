"""Projected phase-change memory: a conducting liner in parallel with the phase-change material."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from phasegrad.devices.curves import Law, Table
from phasegrad.devices.pcm import PCM

_POINTS = 49


def projected(device: PCM, *, liner: float, reset: float = 0.1e-6, crystalline: float | None = None) -> PCM:
    """Add a liner, which conducts the read current around the amorphous plug.

    A cell is its crystalline part in series with the plug. The resistance ``r`` of the plug is proportional to its
    length, and so is that of the liner along it. In every state the plug therefore carries the share
    ``s = G_plug / (G_plug + liner)`` of the current, with ``G_plug`` the plug conductance at full RESET, and plug and
    liner in parallel have the resistance ``s r``. A cell with ``1/G = 1/crystalline + r`` without a liner has
    ``1/G' = 1/crystalline + s r`` with it.

    Only the plug drifts and fluctuates. The effect of a change of its conductance is scaled by the plug's share of the
    current, and by its share of the voltage relative to that without a liner: ``nu' = nu(G) s^2 G'/G``, which is
    ``s nu`` at RESET. The standard deviation of the exponent, relative 1/f noise and the thermal activation energy
    follow the same rule. The lowest conductance increases to ``g_min = 1/(1/crystalline + s r_RESET)``, which is the
    cost of the liner. ``g_max``, ``t0`` and the programming error, which a closed loop determines, are unchanged.

    Measurements show the same decrease of drift and noise and the same narrower window. The circuit is the simplest
    one with this behaviour. The conductances of RESET and of the crystalline part depend on the technology; the
    defaults have the right order of magnitude only.

    Args:
        device: device without a liner.
        liner: conductance of the liner along the plug of a device at full RESET [S]; 0 for no liner.
        reset: conductance at full RESET without a liner [S].
        crystalline: conductance of the cell without a plug, at least ``g_max`` [S]; ``None`` for twice ``g_max``.

    Returns:
        The device with a ``g_min`` and with laws given as tables of 49 points.

    Raises:
        ValueError: ``liner`` is negative, ``reset`` is not between 0 and ``g_max``, ``crystalline`` is below ``g_max``,
            or the device already has a ``g_min``.

    References:
        Bruce, R. L. et al. Mushroom-type phase change memory with projection liner: an array-level demonstration of
        conductance drift and noise mitigation. IEEE International Reliability Physics Symposium (2021).

        Li, N. et al. Optimization of projected phase change memory for analog in-memory computing inference. Adv.
        Electron. Mater. (2023). https://doi.org/10.1002/aelm.202201190

    Examples:
        >>> from phasegrad.devices import joshi_2020
        >>> device = projected(joshi_2020(), liner=0.9e-6)
        >>> round(device.g_max / device.g_min, 1), device.nu_mean(torch.tensor([device.g_min / device.g_max, 1.0]))
        (25.5, tensor([0.0098, 0.0028]))
    """
    if not isinstance(device, PCM):
        raise TypeError(f"projected: device is a {type(device).__name__}; it must be a PCM")
    crystalline = 2.0 * device.g_max if crystalline is None else crystalline
    _check(device, liner, reset, crystalline)
    of_reset = 1.0 / reset - 1.0 / crystalline
    share = 1.0 / (1.0 + liner * of_reset)
    g_min = 1.0 / (1.0 / crystalline + share * of_reset)
    if g_min >= device.g_max:
        raise ValueError(
            f"projected: liner = {liner} S conducts as well as the device at full SET: RESET at {g_min:.3g} S leaves "
            f"no window below g_max = {device.g_max} S; give a smaller liner"
        )
    after = torch.logspace(0.0, 1.0, _POINTS, base=device.g_max / g_min, dtype=torch.float64) * g_min
    after[-1] = device.g_max
    before = 1.0 / (1.0 / crystalline + (1.0 / after - 1.0 / crystalline) / share)

    def lined(law: Law) -> Table:
        value = law(before / device.g_max) * share**2 * after / before
        return Table(g=tuple((after / device.g_max).tolist()), value=tuple(value.tolist()))

    thermal = device.thermal
    return replace(
        device,
        g_min=g_min,
        nu_mean=lined(device.nu_mean),
        nu_sd=lined(device.nu_sd),
        read_noise=None if device.read_noise is None else lined(device.read_noise),
        thermal=None if thermal is None else replace(thermal, conductance_energy=lined(thermal.conductance_energy)),
    )


def _check(device: PCM, liner: float, reset: float, crystalline: float) -> None:
    for name, value in {"liner": liner, "reset": reset, "crystalline": crystalline}.items():
        if not isinstance(value, (int, float)):
            raise TypeError(f"projected: {name} = {value!r} is a {type(value).__name__}; it must be a number [S]")
    if not 0.0 <= liner < math.inf:
        raise ValueError(f"projected: liner = {liner!r} S; it must be finite and not negative")
    if not 0.0 < reset < device.g_max:
        raise ValueError(f"projected: reset = {reset!r} S; it must be above 0 and below g_max = {device.g_max} S")
    if not device.g_max <= crystalline < math.inf:
        raise ValueError(
            f"projected: crystalline = {crystalline!r} S; it must be finite and at least g_max = {device.g_max} S"
        )
    if device.g_min:
        raise ValueError(f"projected: device.g_min = {device.g_min} S; give a device without a liner, whose g_min is 0")
