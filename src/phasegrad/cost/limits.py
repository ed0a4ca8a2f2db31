"""Physical limits that no estimate may fall below."""

from __future__ import annotations

from phasegrad import argument_checks as checks

BOLTZMANN = 1.380649e-23
"""Boltzmann constant [J/K]."""


def thermal_conversion_energy(bits: int, temperature: float = 300.0) -> float:
    """The least energy [J] of a conversion whose thermal noise equals its rounding noise.

    The signal is sampled on a capacitor ``C``, whose noise is ``k T / C``. Where that equals ``step^2 / 12``, with
    ``step = V / 2^bits``, charging ``C`` over the range ``V`` takes ``C V^2 = 12 k T 4^bits``.

    Args:
        bits: resolution.
        temperature: temperature [K].

    Raises:
        ValueError: ``bits`` is not in [1, 64], or the temperature not above 0.

    References:
        Sundstrom, T., Murmann, B. & Svensson, C. Power dissipation bounds for high-speed Nyquist analog-to-digital
        converters. IEEE Trans. Circuits Syst. I 56, 509-518 (2009), with the same argument and twice the energy.
        https://doi.org/10.1109/TCSI.2008.2002548

    Examples:
        >>> f"{thermal_conversion_energy(8):.2g} J"
        '3.3e-15 J'
    """
    bits = checks.integer("thermal_conversion_energy", "bits", bits, 1, 64)
    temperature = checks.number("thermal_conversion_energy", "temperature", temperature, 0.0, above=True, unit="K")
    return 12.0 * BOLTZMANN * temperature * 4.0**bits
