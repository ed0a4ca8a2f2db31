"""Pulsed devices: a step law from conductances read after each pulse."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import NamedTuple

import torch

from phasegrad.devices.fitting.estimate import Estimate, blank_device
from phasegrad.devices.fitting.likelihood import Maximum, maximise
from phasegrad.devices.fitting.measurements import Measurements, check_rows
from phasegrad.devices.fitting.result import Alternative
from phasegrad.devices.fitting.step_forms import FORMS, StepForm
from phasegrad.devices.fitting.step_panels import step_panels
from phasegrad.devices.fitting.trains import PulseData, StepModel, pulse_data
from phasegrad.devices.jump_tables import JumpTable
from phasegrad.devices.pcm import PCM
from phasegrad.devices.steps import Steps

JUMP_TABLE = "jump table"
NAMES = (*(form.name for form in FORMS), JUMP_TABLE)
"""Names of step laws, as ``fit`` accepts them."""
_GAIN = 3.0
"""Log-likelihood per device that differing devices may add to a law; laws that are further behind cannot win."""
_ANTICORRELATED = 5.0
"""Standard errors by which successive steps are anticorrelated before a warning."""


class _Fitted(NamedTuple):
    model: StepModel
    maximum: Maximum


def fit_pulses(
    found: Measurements, law: str | None, g_max: float | None, read_sd: tuple[float, ...], base: PCM | None
) -> Estimate:
    """Fit a step law, or the one of the lowest BIC, to conductances read after each pulse."""
    check_rows(found, 2, "a step")
    data = pulse_data(found, g_max, read_sd)
    device = base or blank_device(data.g_max * 1e-6, 20.0, 250e-9)
    device = dataclasses.replace(device, g_max=data.g_max * 1e-6, read_sd=read_sd or device.read_sd)
    if law == JUMP_TABLE:
        return _table(found, data, device)
    forms = [form for form in FORMS if law in (None, form.name) and not (form.clips_at_reset and data.two_sided)]
    if not forms:
        raise ValueError(
            f"fit: law = {law!r}, but direction has pulses down; SET pulses only raise the conductance; give another "
            "law"
        )
    equal = [_fit(form(data.g_max, data.two_sided, data.bounded), data) for form in forms]
    near = max(one.maximum.value for one in equal) - _GAIN * data.devices
    return _chosen(found, data, device, [_let_differ(e, data) if e.maximum.value >= near else e for e in equal])


def _chosen(found: Measurements, data: PulseData, device: PCM, fits: list[_Fitted]) -> Estimate:
    """The law of the lowest BIC."""
    listed = [Alternative("steps", f.model.form.name, len(f.maximum.theta), f.maximum.value, data.count) for f in fits]
    best = min(range(len(fits)), key=lambda i: listed[i].bic)
    compared = tuple(dataclasses.replace(a, chosen=i == best) for i, a in enumerate(listed))
    chosen = fits[best]
    _warn_of_read_noise(chosen, data)
    steps = _steps(chosen, data)
    bound = chosen.model.values(chosen.maximum.theta).get("g_max", data.g_max * 1e-6)
    device = dataclasses.replace(device, steps=steps, g_max=bound)
    return Estimate(
        chosen.model.likelihood, chosen.model.size, chosen.maximum, chosen.model.names, chosen.model.units,
        chosen.model.natural, device, compared, step_panels(found, data, device), (),
    )  # fmt: skip


def _fit(form: StepForm, data: PulseData) -> _Fitted:
    """Maximum likelihood of equal devices."""
    model = StepModel(form, data, None)
    return _Fitted(model, maximise(model.likelihood, model.start(form.start(data.sample)), model.size))


def _let_differ(equal: _Fitted, data: PulseData) -> _Fitted:
    """Maximum likelihood of devices that differ, if BIC says that they do."""
    form, fitted, d2d = equal.model.form, equal, None
    for _ in range(2):  # the quadrature over devices follows the estimate once
        variation = data.variation(form, fitted.maximum.theta[: len(form.parameters)], d2d)
        if variation is None:
            return equal
        model = StepModel(form, data, variation)
        others = fitted.maximum.theta[: len(equal.maximum.theta)]
        start = torch.cat((others, others.new_tensor([math.log(variation.d2d)])))
        fitted = _Fitted(model, maximise(model.likelihood, start, model.size))
        if 2.0 * (fitted.maximum.value - equal.maximum.value) < math.log(data.devices):
            return equal
        d2d = math.exp(float(fitted.maximum.theta[-1]))
    return fitted


def _steps(fitted: _Fitted, data: PulseData) -> Steps:
    values = fitted.model.values(fitted.maximum.theta)
    if fitted.model.form.clips_at_reset:
        values = {"reset": max(data.low, 0.0) * 1e-6, "reset_deviation": 0.0} | values
    else:
        values = {name: values[name] for name in values if not name.startswith("reset")}
    d2d = values.pop("d2d", 0.0)
    return fitted.model.form.steps(values, d2d)


def _warn_of_read_noise(fitted: _Fitted, data: PulseData) -> None:
    """Warn where successive steps are anticorrelated, as read errors make them."""
    if data.read_sd:
        return
    product, count = fitted.model.successive(fitted.maximum.theta)
    if product < -_ANTICORRELATED / math.sqrt(max(count, 1)):
        warnings.warn(
            f"fit: successive steps have a correlation of {product:.2f}, as noise of reads causes; steps then seem "
            "noisier than they are; pass read_sd, the standard deviation of a read as coefficients of powers of the "
            "conductance [S], or average more reads per pulse",
            stacklevel=4,
        )


def _table(found: Measurements, data: PulseData, device: PCM) -> Estimate:
    before, step, up = data.sample.g * 1e-6, data.sample.step * 1e-6, data.sample.up
    sides = [(before[side], before[side] + sign * step[side]) for side, sign in ((up, 1.0), (~up, -1.0))]
    points = max(5, min(25, len(step) // 200))
    quantiles = max(5, min(51, len(step) // (8 * points)))
    table = JumpTable.from_pulses(
        sides[0], sides[1] if data.two_sided else None, g_max=data.g_max * 1e-6, points=points, quantiles=quantiles
    )
    empty = torch.empty(0, dtype=torch.float64)
    nothing = Maximum(empty, math.nan, empty.view(0, 0), empty.view(0, 0, 0))
    made = dataclasses.replace(device, steps=table)
    notes = ("a jump table has quantiles of measured steps, read noise included, in place of coefficients",)
    return Estimate(
        lambda theta: theta, 0, nothing, (), (), lambda theta: theta, made, (), step_panels(found, data, made), notes
    )
