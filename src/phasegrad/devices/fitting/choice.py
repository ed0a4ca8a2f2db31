"""Which forms the laws of a programmed device have: those with the lowest BIC.

BIC and not AIC, because the result is a device: BIC finds the form with growing certainty as devices are added, while
AIC keeps a superfluous coefficient in a sixth of all fits, however many devices are measured. Both are reported.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from phasegrad.devices.fitting import parts
from phasegrad.devices.fitting.forms import DRIFT_FORMS, NOISE_FORMS, Form
from phasegrad.devices.fitting.likelihood import LogLikelihood, Maximum, maximise
from phasegrad.devices.fitting.parts import Devices
from phasegrad.devices.fitting.result import Alternative

_NOISELESS = 1e-5
"""Relative read errors below which reads have no noise."""
_DEGREES = (0, 1, 2, 3)


class Choice(NamedTuple):
    """Forms of the laws of one device; ``None`` for laws that the measurements do not contain."""

    noise: Form | None = None
    mean: Form | None = None
    sd: Form | None = None
    degree: int | None = None

    @property
    def sizes(self) -> list[int]:
        """Parameters of the noise, of mean and spread of the exponent, and of the programming error."""
        forms = (self.noise, self.mean, self.sd)
        return [*(len(f.parameters) if f else 0 for f in forms), 0 if self.degree is None else self.degree + 1]

    def likelihood(self, of: Devices) -> LogLikelihood:
        """The sum of the log-likelihoods of all laws ``[batch, n]``.

        Residuals determine the read noise; exponents and programming errors are known up to what it does to them.
        """
        return lambda theta: self._sum(theta, of)

    def _sum(self, theta: Tensor, of: Devices) -> Tensor:
        noise, mean, sd, programmed = theta.split(self.sizes, dim=1)
        total, square = theta.new_zeros(len(theta), len(of.g)), theta.new_zeros(len(theta), len(of.g))
        if self.noise:
            q = self.noise.value(noise, of.programmed)
            total, square = total + parts.read_noise(q, of), q.square()
        if self.mean and self.sd:
            law = self.mean.value(mean, of.g), self.sd.value(sd, of.g)
            total = total + parts.drift(*law, square * of.nu_variance, of.nu)
        if self.degree is not None:
            uncertain = square * of.conductance_variance * of.conductance.square()
            total = total + parts.programming(programmed, uncertain, of)
        return total

    def natural(self, theta: Tensor) -> Tensor:
        """Parameters ``[..., p]`` in the units of the device, monotonic in each; conductances in siemens."""
        noise, mean, sd, programmed = theta.split(self.sizes, dim=-1)
        return torch.cat((self.noise.natural(noise) if self.noise else noise, mean, sd, programmed * 1e-6), -1)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, by field of the device."""
        laws = zip(("read_noise", "nu_mean", "nu_sd"), (self.noise, self.mean, self.sd), strict=True)
        found = [f"{law}.{name}" for law, form in laws if form for name in form.parameters]
        return (*found, *(f"programming_sd.{k}" for k in range(self.sizes[3])))

    @property
    def units(self) -> tuple[str, ...]:
        """Units of the parameters."""
        return (*("",) * sum(self.sizes[:3]), *("S",) * self.sizes[3])


def best_noise(of: Devices) -> tuple[Form | None, Tensor, Maximum | None, tuple[Alternative, ...]]:
    """The form of read noise, its value per device, and what it was compared with."""
    if float((of.residual / of.freedom).mean()) < _NOISELESS**2:
        return None, torch.zeros_like(of.g), None, ()
    fits = {}
    for form in NOISE_FORMS:
        if levels(of.programmed) >= form.least:
            start = form.start(of.programmed, (of.residual / of.freedom).sqrt())
            fits[form] = maximise(Choice(noise=form).likelihood(of), start, len(of.g))
    form, alternatives = _lowest("read_noise", fits, len(of.g))
    return form, form.value(fits[form].theta[None], of.programmed)[0], fits[form], alternatives


def best_drift(of: Devices, q: Tensor) -> tuple[Form, Form, Maximum, tuple[Alternative, ...]]:
    """Forms of mean and spread of the exponent: first the mean, then the spread."""
    noise = q.square() * of.nu_variance
    possible = [form for form in DRIFT_FORMS if levels(of.g) >= form.least]
    middle = possible[min(1, len(possible) - 1)]

    def fitted(mean: Form, sd: Form) -> Maximum:
        def likelihood(theta: Tensor) -> Tensor:
            first, second = theta.split([len(mean.parameters), len(sd.parameters)], dim=1)
            return parts.drift(mean.value(first, of.g), sd.value(second, of.g), noise, of.nu)

        return maximise(likelihood, parts.start_of_drift(of, q, mean, sd), len(of.g))

    mean, of_mean = _lowest("nu_mean", {form: fitted(form, middle) for form in possible}, len(of.g))
    fits = {form: fitted(mean, form) for form in possible}
    sd, of_sd = _lowest("nu_sd", fits, len(of.g))
    return mean, sd, fits[sd], (*of_mean, *of_sd)


def best_degree(of: Devices, uncertain: Tensor, count: int) -> tuple[int, Tensor, tuple[Alternative, ...]]:
    """Degree of the programming error, its coefficients, and the degrees that it was compared with."""
    fits = {}
    for degree in _DEGREES:
        if levels(of.g) > degree:
            start = parts.start_of_programming(of, degree)
            fits[degree] = maximise(lambda theta: parts.programming(theta, uncertain, of), start, len(of.g))
    listed = [Alternative("programming_sd", f"degree {d}", d + 1, fit.value, count) for d, fit in fits.items()]
    best = min(fits, key=lambda degree: listed[degree].bic)
    return best, fits[best].theta, _marked(listed, best)


def _lowest(part: str, fits: dict[Form, Maximum], count: int) -> tuple[Form, tuple[Alternative, ...]]:
    listed = [Alternative(part, form.name, len(form.parameters), fit.value, count) for form, fit in fits.items()]
    best = min(range(len(listed)), key=lambda i: listed[i].bic)
    return list(fits)[best], _marked(listed, best)


def _marked(listed: list[Alternative], best: int) -> tuple[Alternative, ...]:
    return tuple(
        Alternative(a.part, a.name, a.parameters, a.log_likelihood, a.measurements, i == best)
        for i, a in enumerate(listed)
    )


def levels(g: Tensor) -> int:
    """Number of levels that differ by more than 2 % of the largest; each law needs some."""
    return len(torch.unique((g / g.max() * 50.0).round()))
