"""Phase-change devices with published statistics, and an ideal device."""

from __future__ import annotations

import dataclasses

from phasegrad.deprecation import renamed_arguments
from phasegrad.devices.amplitude import AmplitudeResponse
from phasegrad.devices.curves import Curve, Piecewise, Power
from phasegrad.devices.pcm import PCM
from phasegrad.devices.steps import Steps, nandakumar_2018


def joshi_2020(*, g_max: float = 25e-6) -> PCM:
    """Doped-GST mushroom cells, 90 nm.

    Args:
        g_max: conductance of the largest weight [S]; the programming error scales with it.

    References:
        Joshi, V. et al. Accurate deep neural network inference using computational phase-change memory. Nat. Commun.
        11, 2473 (2020), Methods. https://doi.org/10.1038/s41467-020-16108-9
    """
    return PCM(
        g_max=g_max,
        t0=20.0,
        t_read=250e-9,
        programming_sd=tuple(c * g_max / 25.0 for c in (0.26348, 1.9650, -1.1731)),
        nu_mean=Curve(log_slope=-0.0155, polynomial=(0.0244,), low=0.049, high=0.1),
        nu_sd=Curve(log_slope=-0.0125, polynomial=(-0.0059,), low=0.008, high=0.045),
        read_noise=Power(factor=0.0088, exponent=-0.65, high=0.2),
    )


def melt_and_quench(*, g_max: float = 25e-6, amplitude: AmplitudeResponse | None = None) -> PCM:
    """Doped-GST mushroom cells of ``joshi_2020`` that can also be programmed by the current of pulses.

    Statistical programming, drift and read noise are those of ``joshi_2020``. The curve of conductance against current
    was read off a plot, so its constants are approximate; the spreads of ``AmplitudeResponse`` from device to device
    and from pulse to pulse are assumptions.

    Args:
        g_max: conductance of the largest weight [S].
        amplitude: the curve; ``None`` for its standard constants.

    References:
        Joshi, V. et al. Accurate deep neural network inference using computational phase-change memory. Nat. Commun.
        11, 2473 (2020), Methods. https://doi.org/10.1038/s41467-020-16108-9

        Le Gallo, M. et al. A 64-core mixed-signal in-memory compute chip based on phase-change memory for deep neural
        network inference. Nat. Electron. 6 (2023), Extended Data Fig. 3. https://doi.org/10.1038/s41928-023-01010-1
    """
    return dataclasses.replace(joshi_2020(g_max=g_max), amplitude=amplitude or AmplitudeResponse())


def hermes_one() -> PCM:
    """One PCM device of IBM's 14 nm HERMES project chip.

    Conductances are those 200 s after programming; a read takes 512 ns. The coefficients are fits to measurements of
    the chip, as published in the source of IBM's Analog Hardware Acceleration Kit (class ``HermesNoiseModel``), which
    cites the papers below for the chip. The statistical model follows Nandakumar et al., "Phase-change memory models
    for deep learning training and inference", ICECS (2019).

    References:
        Khaddam-Aljameh, R. et al. HERMES-core: a 1.59-TOPS/mm2 PCM on 14-nm CMOS in-memory compute core using
        300-ps/LSB linearized CCO-based ADCs. IEEE J. Solid-State Circuits 57 (2022).
        https://doi.org/10.1109/JSSC.2022.3140414

        Le Gallo, M. et al. A 64-core mixed-signal in-memory compute chip based on phase-change memory for deep neural
        network inference. Nat. Electron. 6 (2023). https://doi.org/10.1038/s41928-023-01010-1
    """
    return PCM(
        g_max=10.35e-6,
        t0=200.0,
        t_read=512e-9,
        programming_sd=tuple(c * 1e-6 for c in (0.15781817, 2.32443916, -2.16310839, 0.68841818)),
        nu_mean=_hermes_nu_mean(),
        nu_sd=Piecewise(
            threshold=0.3039,
            below=Curve(log_slope=-0.0120, polynomial=(-0.0023,), low=0.0124, high=0.04),
            above=Curve(polynomial=(0.0104, 0.0116, -0.0165)),
        ),
        read_noise=Piecewise(
            threshold=0.1591,
            below=Curve(log_slope=-0.0078, polynomial=(0.0038,), low=0.0179, high=0.04),
            above=Curve(polynomial=(0.0088, 0.0768, -0.1352, 0.0664)),
        ),
    )


def hermes_two() -> PCM:
    """Two HERMES devices in parallel, modelled as one device of twice the conductance with one drift exponent.

    Conductances are those 300 s after programming; a read takes 512 ns. The coefficients have the same source as those
    of ``hermes_one``. The programming error is that of the pair programmed by the method of Vasilopoulos et al.,
    IEEE Trans. Electron Devices (2023), in which at most one device has an intermediate conductance. Drift is that of
    two devices of the same conductance, which overestimates the drift measured with that method.

    References:
        Khaddam-Aljameh, R. et al. HERMES-core: a 1.59-TOPS/mm2 PCM on 14-nm CMOS in-memory compute core using
        300-ps/LSB linearized CCO-based ADCs. IEEE J. Solid-State Circuits 57 (2022).
        https://doi.org/10.1109/JSSC.2022.3140414

        Le Gallo, M. et al. A 64-core mixed-signal in-memory compute chip based on phase-change memory for deep neural
        network inference. Nat. Electron. 6 (2023). https://doi.org/10.1038/s41928-023-01010-1
    """
    return PCM(
        g_max=20.7e-6,
        t0=300.0,
        t_read=512e-9,
        programming_sd=tuple(c * 1e-6 for c in (0.16603222, 4.71806468, -8.48101252, 4.68961419)),
        nu_mean=_hermes_nu_mean(),
        nu_sd=Piecewise(
            threshold=0.3055,
            below=Curve(log_slope=-0.0117, polynomial=(-0.0057,), low=0.0091, high=0.04),
            above=Curve(polynomial=(0.0073, 0.0093, -0.0118)),
        ),
        read_noise=Piecewise(
            threshold=0.16,
            below=Curve(log_slope=-0.0117, polynomial=(-0.0069,), low=0.015, high=0.04),
            above=Curve(polynomial=(0.0123, 0.0211, -0.0280, 0.0069)),
        ),
    )


def _hermes_nu_mean() -> Piecewise:
    return Piecewise(
        threshold=0.0945,
        below=Curve(log_slope=-0.0387, polynomial=(-0.0182,), low=0.072, high=0.13),
        above=Curve(polynomial=(0.0736, -0.0126, -0.0436)),
    )


@renamed_arguments(spread="device_variation")
def nandakumar_2018_device(*, g_max: float = 12e-6, nu: float = 0.04, device_variation: float = 0.0) -> PCM:
    """Doped-GST mushroom cells, 90 nm, trained by SET pulses.

    After a pulse at ``t_p`` the conductance is ``G(t) = G (max(t - t_p, T0) / T0) ** -nu`` with ``T0 = 38.6 s``. Read
    noise has the standard deviation ``0.03 G + 0.13 uS``.

    Args:
        g_max: upper bound of the conductance [S]; 12 uS in training, 20 uS for the whole range.
        nu: drift exponent of every device; reported as 0.031 in the paper and 0.04 in a published implementation.
        device_variation: relative standard deviation of the step from device to device.

    References:
        Nandakumar, S. R. et al. A phase-change memory model for neuromorphic computing. J. Appl. Phys. 124, 152135
        (2018). https://doi.org/10.1063/1.5042408
    """
    return PCM(
        g_max=g_max, t0=38.6, t_read=250e-9, programming_sd=(0.0,), nu_mean=Curve(polynomial=(nu,)), nu_sd=Curve(),
        read_noise=None, read_sd=(0.13e-6, 0.03), t_min=38.6, steps=nandakumar_2018(device_variation=device_variation),
    )  # fmt: skip


def ideal_device(*, g_max: float = 25e-6, steps: Steps | None = None) -> PCM:
    """A device with exact programming, without drift and without read noise.

    Args:
        g_max: conductance of the largest weight [S].
        steps: response to pulses.
    """
    zero = Curve()
    return PCM(
        g_max=g_max, t0=20.0, t_read=250e-9, programming_sd=(0.0,), nu_mean=zero, nu_sd=zero, read_noise=None,
        steps=steps,
    )  # fmt: skip
