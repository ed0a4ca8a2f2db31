"""``fit``: from raw measurements to a device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from phasegrad import argument_checks as checks
from phasegrad.devices.fitting.amplitude_forms import CURVE_NAMES
from phasegrad.devices.fitting.by_amplitude import fit_amplitudes
from phasegrad.devices.fitting.estimate import Estimate
from phasegrad.devices.fitting.intervals import intervals
from phasegrad.devices.fitting.measurements import Measurements, read_measurements
from phasegrad.devices.fitting.programmed import fit_reads, fit_targets
from phasegrad.devices.fitting.pulsed import NAMES, fit_pulses
from phasegrad.devices.fitting.result import Coefficient, Fit
from phasegrad.devices.pcm import PCM


@torch.no_grad()
def fit(
    data: Any,
    law: Any = None,
    *,
    g_max: float | None = None,
    t0: float | None = None,
    t_read: float = 250e-9,
    read_sd: tuple[float, ...] = (),
    base: PCM | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Fit:
    """Fit a device to raw measurements.

    The columns say what is fitted. Each row is one read of one device, in siemens, seconds and amperes:

    | columns | laws |
    |---|---|
    | `device, pulse, conductance`, optional `direction` | step law; pulse 0 is the read after RESET |
    | `device, time, conductance`, optional `target` | drift, read noise, and with a target programming error |
    | `device, amplitude, conductance` | melt and quench: conductance after one pulse against its current |
    | `device, target, conductance` | programming error |

    Times count from the programming of the device. ``direction`` is 1 for a pulse that raises the conductance and -1
    for one that lowers it. An amplitude is the current of one melting pulse; amplitudes may repeat. All laws are fitted
    by maximum likelihood; forms of a law are compared by BIC. Confidence intervals resample devices, and are never
    shorter than the likelihood of the law says.

    Args:
        data: path of a CSV file whose first row names the columns, or columns by name: a dict or a data frame.
        law: wanted law, by the name that ``print`` lists; ``None`` for the one of the lowest BIC. For pulses it is
            ``"constant"``, ``"soft bounds"``, ``"linear"``, ``"power"``, ``"exponential"``, ``"piecewise"``, ``"set
            pulses"`` or ``"jump table"``; for amplitudes ``"free shape"`` or ``"shape 2"``; otherwise a dict of forms
            by field, such as ``{"nu_mean": "constant"}``.
        g_max: conductance of the largest weight [S], and for pulses the bound of the conductance; ``None`` for the
            largest measured value, rounded up, and for amplitudes that of ``base``, or else the SET conductance that
            95 % of devices exceed.
        t0: reference time of drift [s]; ``None`` for the first read.
        t_read: duration of a read [s], which the law of read noise contains.
        read_sd: for pulses and amplitudes, the standard deviation of a read as coefficients of powers of the
            conductance, lowest power first [S]; empty for reads without noise, such as means of many, and for
            amplitudes to estimate it.
        base: device whose other laws are kept, such as that of an earlier fit; ``None`` for a device without drift and
            programming error. Of amplitudes, its read noise stays as well, if it has any.
        confidence: coverage of the intervals.
        resamples: resamples of devices.
        seed: seed of the resampling.

    Returns:
        The device, with coefficients, intervals and the laws that were compared.

    Raises:
        ValueError: the data are incomplete, inconsistent or in another unit, or do not determine the law; the message
            names the row or device and the remedy.
        TypeError: an argument has another type.
        OSError: the file cannot be read.

    Examples:
        Steps of 40 devices, each 0.5 uS with a deviation of 30 % from cycle to cycle:

        >>> steps = 0.5e-6 * (1 + 0.3 * torch.randn(40, 10, generator=torch.Generator().manual_seed(0)))
        >>> rows = torch.cat((torch.full((40, 1), 1e-6), 1e-6 + steps.cumsum(1)), 1)
        >>> columns = {"device": torch.arange(40).repeat_interleave(11), "pulse": torch.arange(11).repeat(40)}
        >>> found = fit({**columns, "conductance": rows.flatten()}, "constant", g_max=10e-6)
        >>> 0.5e-6 in found.coefficients["size"], round(found.device.steps.c2c, 1)
        (True, 0.3)
    """
    confidence = checks.number("fit", "confidence", confidence, 0.5, 0.999)
    resamples, seed = checks.integer("fit", "resamples", resamples, 100), checks.seed("fit", seed)
    g_max, t0 = (
        None if value is None else checks.number("fit", name, value, 0.0, above=True)
        for name, value in (("g_max", g_max), ("t0", t0))
    )
    t_read = checks.number("fit", "t_read", t_read, 0.0, above=True)
    read_sd = _read_sd(read_sd)
    if base is not None:
        checks.instance("fit", "base", base, PCM)
    found = read_measurements(data)
    _check_window(found, g_max)
    estimate = _estimate(found, law, g_max, t0, t_read, read_sd, base)
    coefficients = _coefficients(estimate, confidence, resamples, seed)
    return Fit(
        estimate.device, coefficients, estimate.alternatives, found.devices, len(found), confidence, estimate.notes,
        estimate.panels,
    )  # fmt: skip


def _estimate(
    found: Measurements, law: Any, g_max: float | None, t0: float | None, t_read: float, read_sd: tuple[float, ...],
    base: PCM | None,
) -> Estimate:  # fmt: skip
    if found.kind == "pulse":
        law = None if law is None else checks.choice("fit", "law", law, NAMES)
        return fit_pulses(found, law, g_max, read_sd, base)
    if found.kind == "amplitude":
        law = None if law is None else checks.choice("fit", "law", law, CURVE_NAMES)
        return fit_amplitudes(found, law, g_max, read_sd, base)
    if found.kind == "time":
        return fit_reads(found, law, g_max, t0, t_read, base)
    return fit_targets(found, law, g_max, base)


def _coefficients(estimate: Estimate, confidence: float, resamples: int, seed: int) -> dict[str, Coefficient]:
    if not estimate.names:
        return {}
    if not estimate.maximum.converged:
        raise ValueError(
            "fit: the likelihood has no maximum near the start, so the data do not determine this law; choose a "
            "simpler one, or measure more devices and levels"
        )
    low, high = intervals(estimate.likelihood, estimate.maximum, estimate.size, confidence, resamples, seed)
    values = (estimate.natural(theta).tolist() for theta in (estimate.maximum.theta, low, high))
    return {
        name: Coefficient(value, least, most, unit)
        for name, unit, value, least, most in zip(estimate.names, estimate.units, *values, strict=True)
    }


def _read_sd(value: Any) -> tuple[float, ...]:
    numbers = tuple(np.asarray(value, dtype=np.float64).reshape(-1).tolist())
    if not all(np.isfinite(numbers)) or (numbers and numbers[0] < 0.0) or (numbers and numbers[0] > 1e-2):
        raise ValueError(
            f"fit: read_sd = {value!r}; it must be finite coefficients of powers of the conductance [S], the first not "
            "negative, such as (0.13e-6, 0.03)"
        )
    return numbers


def _check_window(found: Measurements, g_max: float | None) -> None:
    largest = float(found["target" if "target" in found else "conductance"].max())
    if g_max is not None and not largest / 3.0 <= g_max * (1.0 + 1e-6) <= 1e-2:
        raise ValueError(
            f"fit: g_max = {g_max:g} S, but conductances reach {largest:g} S; give g_max in siemens, not far below them"
        )
