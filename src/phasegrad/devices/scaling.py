"""A phase-change device with another memory window, more or less noise, and more or less drift."""

from __future__ import annotations

import math
from dataclasses import replace

from phasegrad import argument_checks as checks
from phasegrad.devices.curves import Curve
from phasegrad.devices.pcm import PCM


def scaled(device: PCM, *, window: float | None = None, noise: float = 1.0, drift: float = 1.0) -> PCM:
    """Change the memory window, the noise and the drift of a device, each on its own.

    It asks which property of a device limits a network. A technology that changes one usually changes the others too,
    as [`projected`][phasegrad.devices.projected] models it for a liner.

    Args:
        device: the device.
        window: memory window ``g_max / g_min``, above 1, which sets the conductance at RESET; infinite for a ``g_min``
            of 0; ``None`` to leave ``g_min``.
        noise: factor of the standard deviations of programming, of 1/f noise and of other read noise, and of the
            amplitude of telegraph noise.
        drift: factor of the mean and the standard deviation of drift exponents.

    Raises:
        TypeError: the device is not a ``PCM``, whose laws these are.
        ValueError: the window is not above 1, or a factor is negative or not finite.

    Examples:
        >>> from phasegrad.devices import joshi_2020
        >>> device = scaled(joshi_2020(), window=10.0, noise=0.5, drift=0.0)
        >>> round(device.g_min * 1e6, 2), device.drifts
        (2.5, False)
    """
    device = checks.instance("scaled", "device", device, PCM)
    noise, drift = (checks.number("scaled", n, v, 0.0) for n, v in (("noise", noise), ("drift", drift)))
    read_noise, telegraph = device.read_noise, device.telegraph
    if read_noise is not None:
        read_noise = read_noise.scaled(noise)
    correlated = device.correlated_noise
    if noise == 0.0:  # processes without an amplitude would only cost time
        read_noise = correlated = telegraph = None
    if telegraph is not None:
        telegraph = replace(telegraph, amplitude=noise * telegraph.amplitude)
    return replace(
        device,
        g_min=device.g_min if window is None else device.g_max / check_window("scaled", "window", window),
        programming_sd=tuple(noise * c for c in device.programming_sd),
        read_noise=read_noise,
        read_sd=tuple(noise * c for c in device.read_sd) if noise else (),
        correlated_noise=correlated,
        telegraph=telegraph,
        nu_mean=device.nu_mean.scaled(drift) if drift else Curve(),
        nu_sd=device.nu_sd.scaled(drift) if drift else Curve(),
    )


def check_window(caller: str, name: str, window: object) -> float:
    """A memory window ``g_max / g_min``, above 1, perhaps infinite."""
    if isinstance(window, float) and window == math.inf:
        return math.inf
    return checks.number(caller, name, window, 1.0, above=True)
