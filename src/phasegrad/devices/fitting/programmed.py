"""Programmed devices: programming error, drift and read noise of a PCM device from reads over time."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from phasegrad.devices.fitting.choice import Choice, best_degree, best_drift, best_noise, check_wanted
from phasegrad.devices.fitting.estimate import Estimate, blank_device
from phasegrad.devices.fitting.likelihood import LogLikelihood, maximise
from phasegrad.devices.fitting.measurements import LEAST_DEVICES, Measurements, check_rows, rounded_up
from phasegrad.devices.fitting.panels import drift_panels, programming_panel
from phasegrad.devices.fitting.parts import Devices
from phasegrad.devices.fitting.regressions import Regressions, regress, restricted_likelihood
from phasegrad.devices.fitting.result import Alternative
from phasegrad.devices.noise import CorrelatedNoise
from phasegrad.devices.pcm import PCM

LEAST_READS = 4
_OF_READS = ("read_noise", "nu_mean", "nu_sd", "programming_sd")
_SURE = 3.0
"""Targets below this many programming errors, or read errors, are left out: clipping at 0 would distort their drift."""


def fit_reads(
    found: Measurements, law: object, g_max: float | None, t0: float | None, t_read: float, base: PCM | None
) -> Estimate:
    """Fit the laws of a programmed device to reads over time."""
    wanted = check_wanted(law, _OF_READS if "target" in found else _OF_READS[:3])
    check_rows(found, LEAST_READS, "a drift exponent with its error")
    t0 = float(found["time"].min()) if t0 is None else t0
    if not 0.0 < 2.0 * t_read < t0:
        raise ValueError(
            f"fit: t_read = {t_read} s and t0 = {t0} s; t_read is the duration of a read, and t0, the reference time "
            "of drift, must be above 2 t_read; give both in seconds"
        )
    independent, correlated = (regress(found, t0, t_read, shared) for shared in (False, True))
    g_max = _largest(found, independent) if g_max is None else g_max
    kept = _certain(found, independent, g_max)
    candidates = [_devices(found, one, g_max, kept) for one in (independent, correlated)]
    shared, comparison = _compare_covariances(candidates, [independent, correlated], kept)
    of = candidates[int(shared)]
    choice, start, alternatives = _choose(of, "target" in found, wanted)
    likelihood = choice.likelihood(of)
    maximum = maximise(likelihood, start, len(of.g))
    device = _with_laws(choice, of, maximum.theta, base or blank_device(g_max, t0, t_read))
    device = dataclasses.replace(
        device, g_max=g_max, t0=t0, t_read=t_read, correlated_noise=CorrelatedNoise() if shared else None
    )
    compared = (*comparison, *alternatives)
    return Estimate(
        likelihood, len(of.g), maximum, choice.names, choice.units, choice.natural, device, compared,
        drift_panels(found, of, device, "target" in found), _left_out(kept),
    )  # fmt: skip


def fit_targets(found: Measurements, law: object, g_max: float | None, base: PCM | None) -> Estimate:
    """Fit the programming error to conductances and their targets; a device may be programmed more than once."""
    wanted = check_wanted(law, _OF_READS[3:])
    target, conductance = torch.from_numpy(found["target"]) * 1e6, torch.from_numpy(found["conductance"]) * 1e6
    g_max = rounded_up(float(found["target"].max())) if g_max is None else g_max
    base = base or blank_device(g_max, 20.0, 250e-9)
    none = torch.zeros_like(target)
    of = Devices(target * 1e-6 / g_max, conductance * 1e-6 / g_max, conductance, conductance - target, *(none,) * 5)
    degree, start, alternatives = best_degree(of, none, len(target), wanted)
    choice = Choice(degree=degree)
    likelihood = _per_device(choice.likelihood(of), torch.from_numpy(found.device), found.devices)
    maximum = maximise(likelihood, start, len(target))
    device = dataclasses.replace(_with_laws(choice, of, maximum.theta, base), g_max=g_max)
    return Estimate(
        likelihood, len(of.g), maximum, choice.names, choice.units, choice.natural, device, alternatives,
        (programming_panel(of, device),), _bias(of),
    )  # fmt: skip


def _per_device(likelihood: LogLikelihood, index: Tensor, devices: int) -> LogLikelihood:
    def summed(theta: Tensor) -> Tensor:
        rows = likelihood(theta)
        return rows.new_zeros(len(rows), devices).index_add_(1, index, rows)

    return summed


def _largest(found: Measurements, one: Regressions) -> float:
    return rounded_up(float(found["target"].max()) if "target" in found else float(one.conductance.max()) * 1e-6)


def _targets(found: Measurements, one: Regressions) -> Tensor:
    """Target of each device [µS]; what was programmed where none is given."""
    if "target" not in found:
        return one.conductance
    targets = torch.zeros(found.devices, dtype=torch.float64)
    targets[torch.from_numpy(found.device)] = torch.from_numpy(found["target"]) * 1e6
    if float((targets[torch.from_numpy(found.device)] - torch.from_numpy(found["target"]) * 1e6).abs().max()) > 0.0:
        raise ValueError("fit: a device has two targets; give each programming of a device a name of its own")
    return targets


def _certain(found: Measurements, one: Regressions, g_max: float) -> Tensor:
    """Indices of devices whose target, not whose outcome, is far enough above 0."""
    target = _targets(found, one)
    relative = (one.residual / one.freedom).sqrt() * math.sqrt(math.log(float(found["time"].max()) * 2e6))
    powers = torch.stack([(target * 1e-6 / g_max) ** k for k in range(3)], 1)
    size = torch.stack([(one.conductance - target).abs(), relative * one.conductance], 1) * math.sqrt(0.5 * math.pi)
    expected = powers @ torch.linalg.lstsq(powers, size, driver="gelsd").solution
    kept = torch.nonzero(target > _SURE * expected.amax(1)).flatten()
    if len(kept) < LEAST_DEVICES:
        raise ValueError(
            f"fit: {len(kept)} of {found.devices} devices have a conductance that exceeds {_SURE:g} standard "
            "deviations of programming and reads; drift cannot be told from noise in the others; measure devices of "
            "higher conductance, or average more reads"
        )
    return kept


def _devices(found: Measurements, one: Regressions, g_max: float, kept: Tensor) -> Devices:
    scale, target = 1e-6 / g_max, _targets(found, one)
    return Devices(*(
        column[kept]
        for column in (
            target * scale, one.conductance * scale, one.conductance, one.conductance - target, one.nu,
            one.conductance_variance, one.nu_variance, one.residual, one.freedom,
        )
    ))  # fmt: skip


def _compare_covariances(
    candidates: list[Devices], regressions: list[Regressions], kept: Tensor
) -> tuple[bool, tuple[Alternative, ...]]:
    """Whether successive reads share 1/f noise."""
    values = []
    for of, one in zip(candidates, regressions, strict=True):
        form, q, _, _ = best_noise(of)
        if form is None:
            return False, ()
        values.append(restricted_likelihood(Regressions(*(column[kept] for column in one)), q))
    shared = values[1] > values[0]
    names = ("independent reads", "correlated reads")
    return shared, tuple(
        Alternative("read noise", name, 0, value, len(kept), i == int(shared))
        for i, (name, value) in enumerate(zip(names, values, strict=True))
    )


def _choose(of: Devices, programmed: bool, wanted: dict[str, str]) -> tuple[Choice, Tensor, tuple[Alternative, ...]]:
    noise, q, of_noise, first = best_noise(of, wanted)
    mean, sd, of_drift, second = best_drift(of, q, wanted)
    degree, of_programming, third = (
        best_degree(of, q.square() * of.conductance_variance * of.conductance.square(), len(of.g), wanted)
        if programmed
        else (None, of.g.new_empty(0), ())
    )
    theta = torch.cat((*((of_noise.theta,) if of_noise else ()), of_drift.theta, of_programming))
    return Choice(noise, mean, sd, degree), theta, (*first, *second, *third)


def _with_laws(choice: Choice, of: Devices, theta: Tensor, base: PCM) -> PCM:
    noise, mean, sd, programmed = theta.split(choice.sizes)
    laws: dict[str, object] = {}
    if choice.mean and choice.sd:
        laws = {"nu_mean": choice.mean.law(mean, of.g), "nu_sd": choice.sd.law(sd, of.g), "t_min": None}
        laws["read_noise"] = choice.noise.law(noise, of.programmed) if choice.noise else None
        laws["read_sd"] = ()
    if choice.degree is not None:
        laws["programming_sd"] = tuple((programmed * 1e-6).tolist())
    return dataclasses.replace(base, **laws)  # type: ignore[arg-type]


def _left_out(kept: Tensor) -> tuple[str, ...]:
    return (f"laws hold for the {len(kept)} devices whose conductance exceeds {_SURE:g} standard deviations",)


def _bias(of: Devices) -> tuple[str, ...]:
    inside = of.conductance > 0.0
    mean, error = float(of.error[inside].mean()), float(of.error[inside].std()) / math.sqrt(int(inside.sum()))
    if abs(mean) < 4.0 * error or not bool(inside.all()):
        return ()
    return (f"programmed conductances are on average {mean:+.3g} µS off target; programming_sd includes this offset",)
