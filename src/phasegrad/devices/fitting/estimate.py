"""A fitted device before its intervals are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from phasegrad.devices.curves import Curve
from phasegrad.devices.fitting.likelihood import LogLikelihood, Maximum
from phasegrad.devices.fitting.result import Alternative, Panel
from phasegrad.devices.pcm import PCM


class Estimate(NamedTuple):
    """What a law's fit hands to ``fit``."""

    likelihood: LogLikelihood
    size: int
    """Numbers that the likelihood of one parameter vector takes in memory."""
    maximum: Maximum
    names: tuple[str, ...]
    units: tuple[str, ...]
    natural: Callable[[Tensor], Tensor]
    """Parameters ``[..., p]`` in the units of the device, monotonic in each."""
    device: PCM
    alternatives: tuple[Alternative, ...]
    panels: tuple[Panel, ...]
    notes: tuple[str, ...]


def blank_device(g_max: float, t0: float, t_read: float) -> PCM:
    """A device without programming error, drift and noise."""
    return PCM(
        g_max=g_max, t0=t0, t_read=t_read, programming_sd=(0.0,), nu_mean=Curve(), nu_sd=Curve(), read_noise=None
    )  # fmt: skip
