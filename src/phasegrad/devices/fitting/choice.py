"""Which forms the laws of a programmed device have: those with the lowest BIC.

BIC and not AIC, because the result is a device: BIC finds the form with growing certainty as devices are added, while
AIC keeps a superfluous coefficient in a sixth of all fits, however many devices are measured. Both are reported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
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


FORM_NAMES = {
    "read_noise": tuple(form.name for form in NOISE_FORMS),
    "nu_mean": tuple(form.name for form in DRIFT_FORMS),
    "nu_sd": tuple(form.name for form in DRIFT_FORMS),
    "programming_sd": tuple(f"degree {degree}" for degree in _DEGREES),
}
"""Names of forms by field of the device, as printed."""


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


Wanted = Mapping[str, str]
"""Names of forms by part, where the user wants one."""


def best_noise(
    of: Devices, wanted: Wanted = MappingProxyType({})
) -> tuple[Form | None, Tensor, Maximum | None, tuple[Alternative, ...]]:
    """The form of read noise, its value per device, and what it was compared with."""
    if float((of.residual / of.freedom).mean()) < _NOISELESS**2:
        return None, torch.zeros_like(of.g), None, ()
    fits = {}
    for form in _possible("read_noise", NOISE_FORMS, of.programmed, wanted):
        start = form.start(of.programmed, (of.residual / of.freedom).sqrt())
        fits[form] = maximise(Choice(noise=form).likelihood(of), start, len(of.g))
    form, alternatives = _lowest("read_noise", fits, len(of.g))
    return form, form.value(fits[form].theta[None], of.programmed)[0], fits[form], alternatives


def best_drift(
    of: Devices, q: Tensor, wanted: Wanted = MappingProxyType({})
) -> tuple[Form, Form, Maximum, tuple[Alternative, ...]]:
    """Forms of mean and spread of the exponent: first the mean, then the spread.

    Corners are rounded by a standard error of one level, which the measurements do not resolve.
    """
    noise, error = q.square() * of.nu_variance, parts.error_of_level(of, levels(of.g))
    means, sds = (
        [form.rounded(e) for form in _possible(part, DRIFT_FORMS, of.g, wanted)]
        for part, e in (("nu_mean", error), ("nu_sd", error / math.sqrt(2.0)))
    )
    middle = sds[min(1, len(sds) - 1)]

    def fitted(mean: Form, sd: Form) -> Maximum:
        def likelihood(theta: Tensor) -> Tensor:
            first, second = theta.split([len(mean.parameters), len(sd.parameters)], dim=1)
            return parts.drift(mean.value(first, of.g), sd.value(second, of.g), noise, of.nu)

        return maximise(likelihood, parts.start_of_drift(of, q, mean, sd), len(of.g))

    mean, of_mean = _lowest("nu_mean", {form: fitted(form, middle) for form in means}, len(of.g))
    fits = {form: fitted(mean, form) for form in sds}
    sd, of_sd = _lowest("nu_sd", fits, len(of.g))
    return mean, sd, fits[sd], (*of_mean, *of_sd)


def best_degree(
    of: Devices, uncertain: Tensor, count: int, wanted: Wanted = MappingProxyType({})
) -> tuple[int, Tensor, tuple[Alternative, ...]]:
    """Degree of the programming error, its coefficients, and the degrees that it was compared with."""
    fits = {}
    for degree in _degrees(of, wanted):
        start = parts.start_of_programming(of, degree)
        fits[degree] = maximise(lambda theta: parts.programming(theta, uncertain, of), start, len(of.g))
    listed = [Alternative("programming_sd", f"degree {d}", d + 1, fit.value, count) for d, fit in fits.items()]
    best = min(range(len(listed)), key=lambda i: listed[i].bic)
    return list(fits)[best], list(fits.values())[best].theta, _marked(listed, best)


def _possible(part: str, forms: tuple[Form, ...], g: Tensor, wanted: Wanted) -> list[Form]:
    """Forms that the measured levels determine: all, or the wanted one."""
    if part not in wanted:
        return [form for form in forms if levels(g) >= form.least]
    form = next(form for form in forms if form.name == wanted[part])
    if levels(g) < form.least:
        raise ValueError(
            f"fit: law = {{{part!r}: {form.name!r}}} needs {form.least} levels of conductance, but {levels(g)} were "
            "measured; measure more levels, or choose a form with fewer coefficients"
        )
    return [form]


def _degrees(of: Devices, wanted: Wanted) -> list[int]:
    part = "programming_sd"
    degrees = [int(wanted[part].split()[-1])] if part in wanted else [d for d in _DEGREES if levels(of.g) > d]
    if degrees[-1] >= levels(of.g):
        raise ValueError(
            f"fit: law = {{{part!r}: {wanted[part]!r}}} needs {degrees[-1] + 1} targets, but {levels(of.g)} were "
            "measured; measure more targets, or choose a lower degree"
        )
    return degrees


def check_wanted(law: object, parts_of_kind: tuple[str, ...]) -> dict[str, str]:
    """The forms that a user wants, checked.

    Raises:
        TypeError: ``law`` is no mapping.
        ValueError: a part or a form is unknown.
    """
    if law is None:
        return {}
    if not isinstance(law, Mapping):
        raise TypeError(
            f"fit: law = {law!r}; for these measurements it must be a dict, such as {{'nu_mean': 'constant'}}"
        )
    for part, name in law.items():
        if part not in parts_of_kind:
            raise ValueError(f"fit: law has {part!r}; these measurements determine {', '.join(parts_of_kind)}")
        if name not in FORM_NAMES[part]:
            raise ValueError(f"fit: law[{part!r}] = {name!r}; it must be one of {', '.join(FORM_NAMES[part])}")
    return dict(law)


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
