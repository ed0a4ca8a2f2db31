"""Hardware for training in the memory."""

from __future__ import annotations

from phasegrad.cells import DifferentialPair, MultiMemristive, ReferencedDevice
from phasegrad.crossbar import Fast, Hardware, Pulses, Transfer
from phasegrad.deprecation import renamed_arguments
from phasegrad.devices import (
    Capacitor,
    ConstantSteps,
    LinearSteps,
    SoftBoundsSteps,
    ideal_device,
    nandakumar_2018,
    nandakumar_2018_device,
)

_PCM_REACH = 10.5e-6
"""Where the mean step of ``nandakumar_2018`` vanishes [S]."""


def constant_step_training(*, weight_max: float = 0.6, steps: int = 1200) -> Hardware:
    """The device of Gokmen and Vlasov, Front. Neurosci. 10:333 (2016): constant steps between hard bounds.

    Steps of ``2 weight_max / steps`` (0.001), 30 % of spread from device to device and from pulse to pulse, 30 % in
    the bounds, 2 % in the ratio of steps up and down. Exact periphery.

    Args:
        weight_max: weight at the upper bound.
        steps: pulses from one bound to the other.
    """
    g_max = 25e-6
    law = ConstantSteps(size=g_max / steps, c2c=0.3, d2d=0.3, imbalance=0.02, bounds_d2d=0.15)
    return Hardware(
        cell=ReferencedDevice(device=ideal_device(g_max=g_max, steps=law)), scale=weight_max, pulses=Pulses()
    )


def soft_bounds_training(*, weight_max: float = 0.6, steps: int = 1200) -> Hardware:
    """A device whose steps shrink towards its bounds, otherwise as :func:`constant_step_training`.

    Args:
        weight_max: weight at the upper bound.
        steps: nominal pulses from one bound to the other, at the step of half the range.
    """
    g_max = 25e-6
    law = SoftBoundsSteps(size=g_max / steps, c2c=0.3, d2d=0.3, imbalance=0.02, bounds_d2d=0.15)
    return Hardware(
        cell=ReferencedDevice(device=ideal_device(g_max=g_max, steps=law)), scale=weight_max, pulses=Pulses()
    )


def pcm_pair_training(*, weight_max: float = 0.3, refresh: int = 100) -> Hardware:
    """Two PCM devices a weight, pulsed as Nandakumar et al., J. Appl. Phys. 124, 152135 (2018) measured.

    ``g_max`` is 12 uS, so the default is 40 uS per unit of weight. The mean step vanishes at 10.5 uS, of which the
    thresholds of the occasional RESET are parts. Devices do not drift while they are trained. Exact periphery.

    Args:
        weight_max: weight of a pair at 12 and 0 uS.
        refresh: updates between two looks for pairs to RESET.
    """
    device = ideal_device(g_max=12e-6, steps=nandakumar_2018())
    cell = DifferentialPair(device=device, refresh=refresh, reach=_PCM_REACH)
    return Hardware(cell=cell, scale=weight_max, pulses=Pulses())


def multi_memristive_training(*, pairs: int = 4, weight_max: float = 0.3, refresh: int = 100) -> Hardware:
    """Several pairs of PCM devices a weight, pulsed in turn: Boybat et al., Nat. Commun. 9:2514 (2018).

    Devices and periphery are those of :func:`pcm_pair_training`, which is the case of one pair. A pulse moves the
    weight by ``1 / pairs`` of a pair's step.

    Args:
        pairs: of a weight; each holds the whole weight, and the weight is their mean.
        weight_max: weight at 12 and 0 uS in every pair.
        refresh: updates between two looks for pairs to RESET.
    """
    device = ideal_device(g_max=12e-6, steps=nandakumar_2018())
    cell = MultiMemristive(device=device, pairs=pairs, refresh=refresh, reach=_PCM_REACH)
    return Hardware(cell=cell, scale=weight_max, pulses=Pulses())


@renamed_arguments(spread="device_variation")
def pcm_capacitor_training(
    *, weight_max: float = 0.45, mismatch: float = 0.15, device_variation: float = 0.15, inversion: bool = True,
    tau: float = 5e-3, every: int = 8000,
) -> Hardware:  # fmt: skip
    """A pair of PCM devices beside a capacitor: Ambrogio et al., Nature 558:60 (2018).

    ``w = F (G+ - G-) + s (g - g_ref)``, ``F = 3``; by default at 80 uS per unit of weight, so that a pair of 12 and
    0 uS stands for 0.45, and the capacitor's 80 uS for -0.5 to 0.5. Every update goes to the capacitor, in about 1,000
    steps whose size depends weakly on its voltage; it leaks, and every 8,000 images its content is written to the
    pair, closed loop, aiming at 10 uS and below. PCM after Nandakumar et al. (2018), drift and read noise included;
    240 ns an image. ``F`` and the capacitor's constants are widely reported figures, each an argument or a field to
    change.

    Args:
        weight_max: weight of a pair of 12 and 0 uS; the capacitor's range goes with it. Noise does too, so a layer is
            best given the range that its weights need.
        mismatch: standard deviation of the ratio of steps up and down from cell to cell, fixed for life.
        device_variation: relative standard deviation of the step from cell to cell.
        inversion: whether the capacitor's polarity is inverted after every transfer.
        tau: time constant of the leak [s].
        every: samples from one transfer to the next.
    """
    factor, g_max = 3.0, 12e-6
    steps = LinearSteps(size=80e-9, slope_up=0.2, slope_down=0.2, c2c=0.05, d2d=device_variation, imbalance=mismatch)
    return Hardware(
        cell=DifferentialPair(device=nandakumar_2018_device(g_max=g_max)),
        scale=weight_max,
        pulses=Pulses(sample_time=240e-9),
        fast=Fast(
            cell=ReferencedDevice(device=Capacitor(g_max=80e-6, tau=tau, steps=steps)),
            scale=weight_max * 40e-6 / (factor * g_max),
            transfer=Transfer(every=every, limit=10e-6 / g_max, inversion=inversion),
        ),
    )


def tiki_taka_training(
    *, weight_max: float = 0.6, states: int = 20, imbalance: float = 0.5, gain: float = 0.0
) -> Hardware:
    """Two arrays of soft-bounds devices of few states, whose symmetric points differ from device to device, as ReRAM.

    Few states follow Gong et al., IEDM (2022): the nominal step of their ReRAM array, as a published simulator fits it,
    is 0.095 of half the range, 21 states. The other figures are round, stated here and fitted to no array: 30 % of
    spread from device to device and from pulse to pulse, bounds that spread by 20 % of half the range. Steps up and
    down differ by a ratio of mean 1 and standard deviation ``imbalance``; where they are equal, the symmetric point, is
    then off the middle by about half of that, in units of half the range (0.3 at the default), and nobody has looked
    for it. Exact periphery, noiseless reads.

    Args:
        weight_max: weight at the upper bound, of both arrays.
        states: nominal pulses from one bound to the other, at the step of half the range.
        imbalance: standard deviation of the ratio of steps up and down.
        gain: how much of the fast array counts in the weight, ``gamma`` of Tiki-Taka.
    """
    g_max = 25e-6
    law = SoftBoundsSteps(size=g_max / states, c2c=0.3, d2d=0.3, imbalance=imbalance, bounds_d2d=0.1)
    cell = ReferencedDevice(device=ideal_device(g_max=g_max, steps=law))
    return Hardware(cell=cell, scale=weight_max, pulses=Pulses(), fast=Fast(cell=cell, scale=weight_max, gain=gain))
