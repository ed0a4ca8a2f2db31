"""The published laws of programmed PCM, in NumPy, independent of the library: coefficients as in the papers, in µS.

Joshi et al., Nat. Commun. 11:2473 (2020), equations of Methods; the two HERMES devices are those of the 14 nm core.
``g`` is a conductance over the largest, everywhere the *target* except in ``read_sd``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Function = Callable[[Array], Array]


@dataclass(frozen=True)
class PcmLaw:
    g_max: float  # µS
    t0: float  # s
    t_read: float  # s
    programming_sd: Function  # µS
    nu_mean: Function
    nu_sd: Function
    q: Function

    def programmed(self, g: float) -> Function:
        """Map a standard normal to a conductance [µS]."""
        return lambda x: np.maximum(g * self.g_max + self.programming_sd(np.float64(g)) * x, 0.0)

    def nu(self, g: float) -> Function:
        return lambda x: np.abs(self.nu_mean(np.float64(g)) + self.nu_sd(np.float64(g)) * x)

    def retention(self, nu: Array, age: float) -> Array:
        """Fraction of a conductance that remains after drift."""
        return ((age + self.t0) / self.t0) ** -nu

    def loss(self, nu: Array, age: float) -> Array:
        """Fraction of a conductance lost to drift, accurate for the shortest ages."""
        return -np.expm1(-nu * np.log1p(age / self.t0))

    def read_sd(self, g: Array, age: float) -> Array:
        """Standard deviation of a read relative to the drifted conductance; ``g`` is the programmed one."""
        return self.q(g) * np.sqrt(np.log((age + self.t0 + self.t_read) / (2.0 * self.t_read)))


def joshi_programming_sd(g: Array) -> Array:
    return 0.26348 + 1.9650 * g - 1.1731 * g**2


def sandia_programming_sd(conductance: Array) -> Array:
    """An independent fit of the same measurement [µS]; the conductance in µS, up to 25."""
    return -0.00178767 * conductance**2 + 0.07585724 * conductance + 0.28638599


JOSHI_2020 = PcmLaw(
    g_max=25.0,
    t0=20.0,
    t_read=250e-9,
    programming_sd=joshi_programming_sd,
    nu_mean=lambda g: np.clip(-0.0155 * np.log(g) + 0.0244, 0.049, 0.1),
    nu_sd=lambda g: np.clip(-0.0125 * np.log(g) - 0.0059, 0.008, 0.045),
    q=lambda g: np.minimum(0.0088 / np.maximum(g**0.65, 1e-3), 0.2),
)


def hermes_nu_mean(g: Array) -> Array:
    low = np.clip(-0.0387 * np.log(g) - 0.0182, 0.072, 0.13)
    return np.where(g < 0.0945, low, -0.0436 * g**2 - 0.0126 * g + 0.0736)


def one_nu_sd(g: Array) -> Array:
    low = np.clip(-0.0120 * np.log(g) - 0.0023, 0.0124, 0.04)
    return np.where(g < 0.3039, low, -0.0165 * g**2 + 0.0116 * g + 0.0104)


def one_q(g: Array) -> Array:
    low = np.clip(-0.0078 * np.log(g) + 0.0038, 0.0179, 0.04)
    return np.where(g < 0.1591, low, 0.0664 * g**3 - 0.1352 * g**2 + 0.0768 * g + 0.0088)


def two_nu_sd(g: Array) -> Array:
    low = np.clip(-0.0117 * np.log(g) - 0.0057, 0.0091, 0.04)
    return np.where(g < 0.3055, low, -0.0118 * g**2 + 0.0093 * g + 0.0073)


def two_q(g: Array) -> Array:
    low = np.clip(-0.0117 * np.log(g) - 0.0069, 0.015, 0.04)
    return np.where(g < 0.16, low, 0.0069 * g**3 - 0.0280 * g**2 + 0.0211 * g + 0.0123)


HERMES_ONE = PcmLaw(
    g_max=10.35,
    t0=200.0,
    t_read=512e-9,
    programming_sd=lambda g: 0.15781817 + 2.32443916 * g - 2.16310839 * g**2 + 0.68841818 * g**3,
    nu_mean=hermes_nu_mean,
    nu_sd=one_nu_sd,
    q=one_q,
)

HERMES_TWO = PcmLaw(
    g_max=20.7,
    t0=300.0,
    t_read=512e-9,
    programming_sd=lambda g: 0.16603222 + 4.71806468 * g - 8.48101252 * g**2 + 4.68961419 * g**3,
    nu_mean=hermes_nu_mean,
    nu_sd=two_nu_sd,
    q=two_q,
)
