"""Devices programmed by amplitude: the curve of melt and quench from conductances after single pulses."""

from __future__ import annotations

import dataclasses
import math
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from phasegrad.devices.amplitude import AmplitudeResponse
from phasegrad.devices.fitting.amplitude_forms import CURVE_FORMS, CurveForm
from phasegrad.devices.fitting.amplitude_model import AmplitudeData, Fitted, fit_curve
from phasegrad.devices.fitting.amplitude_panels import amplitude_panels
from phasegrad.devices.fitting.estimate import Estimate, blank_device
from phasegrad.devices.fitting.measurements import Measurements, check_rows, padded, rounded_down
from phasegrad.devices.fitting.result import Alternative
from phasegrad.devices.pcm import PCM

_LEAST_PULSES = 6
_LEAST_FALL = 0.5
"""Share of the conductance by which the curve must fall."""
_NOISE = ("constant", "linear in the conductance")
"""Laws of read noise, with one coefficient more each."""
_MOST_WEAK = 0.05
"""Share of devices that may have a SET conductance below ``g_max``."""
_LEAST_INFORMATION = 4.0
"""Information on the logarithm of a spread below which its square does not exceed its standard error."""
_OTHER_LAWS = "statistical programming is exact and nothing drifts; pass base= for a device that has these laws"


def fit_amplitudes(
    found: Measurements, law: str | None, g_max: float | None, read_sd: tuple[float, ...], base: PCM | None
) -> Estimate:
    """Fit the curve of conductance against current, the spread of devices, and the noise of pulses and reads."""
    check_rows(found, _LEAST_PULSES, "the curve of a device")
    _check_fall(found)
    data = _data(found, read_sd)
    forms = [form for form in CURVE_FORMS if law in (None, form.name)]
    first, of_noise = _first(forms[0], data)
    fits = [first, *(fit_curve(form, data, first.model.noise) for form in forms[1:])]
    best, of_curve = _lowest("curve", [form.name for form in forms], fits, [form.is_device for form in forms])
    model, maximum = fits[best]
    device = _device(fits[best], read_sd, g_max, base)
    notes = (_explained(fits[best]), *_better(of_curve), *_at_zero(fits[best]), *_weak(device))
    return Estimate(
        model.likelihood, model.size, maximum, model.names, model.units, model.natural, device,
        (*of_noise, *of_curve), amplitude_panels(model, maximum.theta), (*notes, *(() if base else (_OTHER_LAWS,))),
    )  # fmt: skip


def _data(found: Measurements, read_sd: tuple[float, ...]) -> AmplitudeData:
    unit = 0.2 * float(found["amplitude"].max())
    current, reads = padded(found, found["amplitude"] / unit), padded(found, found["conductance"] * 1e6)
    return AmplitudeData(current, reads, tuple(c * 1e6 ** (1 - k) for k, c in enumerate(read_sd)), unit)


def _check_fall(found: Measurements) -> None:
    """Raise where the amplitudes cannot determine a falling curve."""
    amplitude, conductance = found["amplitude"], found["conductance"]
    count = len(np.unique(amplitude))
    if count < _LEAST_PULSES:
        raise ValueError(
            f"fit: amplitude has {count} different values; the curve needs {_LEAST_PULSES} or more, from currents that "
            "melt nothing to currents that block the device"
        )
    low, high = np.quantile(amplitude, (0.1, 0.9))
    first, last = conductance[amplitude <= low].mean(), conductance[amplitude >= high].mean()
    if last >= (1.0 - _LEAST_FALL) * first:
        raise ValueError(
            f"fit: mean conductance is {first:.3g} S up to amplitude = {low:.3g} A and {last:.3g} S from {high:.3g} "
            f"A; it must fall by {100.0 * _LEAST_FALL:g} % or more, as from SET to RESET; measure from currents that "
            "melt nothing to currents that block the device, each pulse on a SET device"
        )


def _first(form: CurveForm, data: AmplitudeData) -> tuple[Fitted, tuple[Alternative, ...]]:
    """A curve with the read noise of the lowest BIC; pulses beside the fall tell it from noise of the current."""
    if data.read_sd:
        return fit_curve(form, data, 0), ()
    fits = [fit_curve(form, data, 1 + degree) for degree in range(len(_NOISE))]
    best, compared = _lowest("read noise", list(_NOISE), fits, [True] * len(fits))
    return fits[best], compared


def _lowest(
    part: str, names: list[str], fits: list[Fitted], possible: list[bool]
) -> tuple[int, tuple[Alternative, ...]]:
    listed = [
        Alternative(part, name, len(one.maximum.theta), one.maximum.value, one.model.data.pulses)
        for name, one in zip(names, fits, strict=True)
    ]
    best = min((i for i in range(len(fits)) if possible[i]), key=lambda i: listed[i].bic)
    return best, tuple(dataclasses.replace(a, chosen=i == best) for i, a in enumerate(listed))


def _device(fitted: Fitted, read_sd: tuple[float, ...], g_max: float | None, base: PCM | None) -> PCM:
    """The device; read noise of ``base`` stays, because it is part of what was estimated here."""
    values = fitted.model.values(fitted.maximum.theta)
    noise = tuple(values.pop(name) for name in list(values) if name.startswith("read_sd"))
    curve = _curve(values)
    if g_max is None:
        weak = curve.set_conductance * math.exp(NormalDist().inv_cdf(_MOST_WEAK) * curve.set_sd)
        g_max = base.g_max if base else rounded_down(weak)
    device = base or blank_device(g_max, 20.0, 250e-9)
    kept = device.read_sd if device.reads_are_noisy else noise
    return dataclasses.replace(device, g_max=g_max, amplitude=curve, read_sd=read_sd or kept)


def _curve(values: dict[str, float]) -> AmplitudeResponse:
    if not 0.0 < values["onset"] < values["complete"]:
        raise ValueError(
            f"fit: the curve falls from onset = {values['onset']:.3g} A to complete = {values['complete']:.3g} A; both "
            "must be above 0; measure currents that melt nothing as well as currents that block the device"
        )
    return AmplitudeResponse(**{**values, "reset_conductance": max(values["reset_conductance"], 0.0)})


def _explained(fitted: Fitted) -> str:
    """Shares of the variance of all reads that the curve explains."""
    model, theta = fitted.model, fitted.maximum.theta[None]
    y, seen, current = model.data.reads, ~model.data.reads.isnan(), model.data.current
    total = (y[seen] - y[seen].mean()).square().sum()

    def share(own: Tensor) -> float:
        return 100.0 * float(1.0 - (y - model.predict(theta, own[None], current)[0][0])[seen].square().sum() / total)

    median, own = share(torch.zeros_like(model.own)), share(model.own)
    return f"R2 {median:.2f} % for the curve of the median device, {own:.2f} % with offset and strength of each device"


def _better(compared: tuple[Alternative, ...]) -> tuple[str, ...]:
    """A note if a curve that no device has is likelier."""
    chosen = next(a for a in compared if a.chosen)
    return tuple(
        f"a {a.name} curve is likelier (BIC {a.bic - chosen.bic:.0f}); no device has it, so look at the plot"
        for a in compared
        if a.bic < chosen.bic
    )


def _at_zero(fitted: Fitted) -> tuple[str, ...]:
    """Notes on spreads that may as well be 0, and on a conductance that no device has."""
    model, maximum = fitted
    known = maximum.information.sum(0).diagonal().tolist()
    names = [name for name, one in zip(model.names, known, strict=True) if "_sd" in name and one < _LEAST_INFORMATION]
    spreads = (f"{', '.join(names)}: not told from 0, so that the interval means nothing",) if names else ()
    if float(maximum.theta[1]) >= 0.0:
        return spreads
    return (
        *spreads,
        "reset_conductance is negative, and 0 in the device; measure higher currents, or subtract offsets",
    )


def _weak(device: PCM) -> tuple[str, ...]:
    """A note if many devices cannot be programmed to ``g_max``."""
    curve = device.amplitude
    assert curve is not None
    apart = math.log(device.g_max / curve.set_conductance) / max(curve.set_sd, 1e-9)
    share = NormalDist().cdf(apart)
    if share <= _MOST_WEAK:
        return ()
    return (f"{100.0 * share:.0f} % of devices have a SET conductance below g_max = {device.g_max * 1e6:.3g} µS",)
