"""Hardware for training in the memory."""

from __future__ import annotations

from phasegrad.argument_checks import integer
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
"""Conductance at which the mean step of ``nandakumar_2018`` vanishes [S]."""


def constant_step_training(*, weight_max: float = 0.6, steps: int = 1200) -> Hardware:
    """Devices of constant steps between hard bounds, after Gokmen and Vlasov.

    The step is ``2 weight_max / steps``, 0.001 by default. Variation is 30 % in the step from device to device and
    from cycle to cycle, 30 % in the bounds, and 2 % in the ratio of steps up and down. The periphery is exact.

    Args:
        weight_max: weight at the upper bound.
        steps: pulses from one bound to the other.

    References:
        Gokmen, T. & Vlasov, Y. Acceleration of deep neural network training with resistive cross-point devices: design
        considerations. Front. Neurosci. 10, 333 (2016). https://doi.org/10.3389/fnins.2016.00333
    """
    g_max = 25e-6
    steps = integer("constant_step_training", "steps", steps, 1)
    law = ConstantSteps(size=g_max / steps, c2c=0.3, d2d=0.3, imbalance=0.02, bounds_d2d=0.15)
    return Hardware(
        cell=ReferencedDevice(device=ideal_device(g_max=g_max, steps=law)), scale=weight_max, pulses=Pulses()
    )


def soft_bounds_training(*, weight_max: float = 0.6, steps: int = 1200) -> Hardware:
    """Devices whose steps decrease towards the bounds, otherwise as ``constant_step_training``.

    Args:
        weight_max: weight at the upper bound.
        steps: range over the step in the middle of the range.

    References:
        Gokmen, T. & Vlasov, Y. Acceleration of deep neural network training with resistive cross-point devices: design
        considerations. Front. Neurosci. 10, 333 (2016). https://doi.org/10.3389/fnins.2016.00333
    """
    g_max = 25e-6
    steps = integer("soft_bounds_training", "steps", steps, 1)
    law = SoftBoundsSteps(size=g_max / steps, c2c=0.3, d2d=0.3, imbalance=0.02, bounds_d2d=0.15)
    return Hardware(
        cell=ReferencedDevice(device=ideal_device(g_max=g_max, steps=law)), scale=weight_max, pulses=Pulses()
    )


def pcm_pair_training(*, weight_max: float = 0.3, refresh: int = 100) -> Hardware:
    """Two PCM devices per weight, with the SET pulses of Nandakumar et al. and occasional RESET.

    ``g_max`` is 12 uS, so that the default is 40 uS per unit of weight. The mean step vanishes at 10.5 uS, to which the
    thresholds of the occasional RESET are relative. Devices do not drift during training. The periphery is exact.

    Args:
        weight_max: weight of a pair at 12 and 0 uS.
        refresh: updates between two searches for saturated pairs.

    References:
        Nandakumar, S. R. et al. A phase-change memory model for neuromorphic computing. J. Appl. Phys. 124, 152135
        (2018). https://doi.org/10.1063/1.5042408

        Burr, G. W. et al. Experimental demonstration and tolerancing of a large-scale neural network (165 000 synapses)
        using phase-change memory as the synaptic weight element. IEEE Trans. Electron Devices 62, 3498 (2015).
        https://doi.org/10.1109/TED.2015.2439635
    """
    device = ideal_device(g_max=12e-6, steps=nandakumar_2018())
    cell = DifferentialPair(device=device, refresh=refresh, reach=_PCM_REACH)
    return Hardware(cell=cell, scale=weight_max, pulses=Pulses())


def multi_memristive_training(*, pairs: int = 4, weight_max: float = 0.3, refresh: int = 100) -> Hardware:
    """Several pairs of PCM devices per weight, pulsed in turn.

    Devices and periphery are those of ``pcm_pair_training``, which is the case of one pair. A pulse changes the
    weight by ``1 / pairs`` of the step of a pair.

    Args:
        pairs: pairs per weight; each stores the whole weight, and the weight is their mean.
        weight_max: weight at 12 and 0 uS in every pair.
        refresh: updates between two searches for saturated pairs.

    References:
        Boybat, I. et al. Neuromorphic computing with multi-memristive synapses. Nat. Commun. 9, 2514 (2018).
        https://doi.org/10.1038/s41467-018-04933-y

        Nandakumar, S. R. et al. A phase-change memory model for neuromorphic computing. J. Appl. Phys. 124, 152135
        (2018). https://doi.org/10.1063/1.5042408
    """
    device = ideal_device(g_max=12e-6, steps=nandakumar_2018())
    cell = MultiMemristive(device=device, pairs=pairs, refresh=refresh, reach=_PCM_REACH)
    return Hardware(cell=cell, scale=weight_max, pulses=Pulses())


@renamed_arguments(spread="device_variation")
def pcm_capacitor_training(
    *, weight_max: float = 0.45, mismatch: float = 0.15, device_variation: float = 0.15, inversion: bool = True,
    tau: float = 5e-3, every: int = 8000,
) -> Hardware:  # fmt: skip
    """A pair of PCM devices and a capacitor per weight.

    The weight is ``w = F (G+ - G-) + s (g - g_ref)`` with ``F = 3``. By default, 80 uS represent a weight of 1: a pair
    at 12 and 0 uS represents 0.45, and the capacitor's 80 uS represent the range from -0.5 to 0.5. All updates go to
    the capacitor, whose range is about 1,000 steps with a size that depends weakly on its voltage. The capacitor leaks;
    every 8,000 images its content is written to the pair in a closed loop, with targets of at most 10 uS. The PCM
    devices are those of Nandakumar et al., with drift and read noise. An image takes 240 ns. ``F`` and the constants of
    the capacitor are widely reported values; each is an argument or a field.

    Args:
        weight_max: weight of a pair at 12 and 0 uS, to which the capacitor's range and the noise are proportional:
            choose it as small as the weights of the layer allow.
        mismatch: standard deviation of the ratio of steps up and down from cell to cell, fixed at fabrication.
        device_variation: relative standard deviation of the step from cell to cell.
        inversion: whether the polarity of the capacitor is inverted after every transfer.
        tau: time constant of the leak [s].
        every: samples from one transfer to the next.

    References:
        Ambrogio, S. et al. Equivalent-accuracy accelerated neural-network training using analogue memory. Nature 558,
        60-67 (2018). https://doi.org/10.1038/s41586-018-0180-5

        Nandakumar, S. R. et al. A phase-change memory model for neuromorphic computing. J. Appl. Phys. 124, 152135
        (2018). https://doi.org/10.1063/1.5042408
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
    """Two arrays of soft-bounds devices with few states and variable symmetric points, as in ReRAM.

    The number of states follows the ReRAM array of Gong et al., IEDM (2022), whose nominal step a published simulator
    fits as 0.095 of half the range, or 21 states. The other values are round numbers that were not fitted to an array:
    variation of 30 % in the step from device to device and from cycle to cycle, and of 20 % of half the range in the
    bounds. The ratio of steps up and down has mean 1 and standard deviation ``imbalance``. The symmetric point, at
    which both steps are equal, is therefore displaced from the middle by about ``imbalance / 2`` in units of half the
    range (0.3 at the default), and it is not calibrated. The periphery is exact and reads are noiseless.

    Args:
        weight_max: weight at the upper bound of both arrays.
        states: range over the step in the middle of the range.
        imbalance: standard deviation of the ratio of steps up and down.
        gain: factor of the fast array in the weight, ``gamma`` of Tiki-Taka.

    References:
        Gokmen, T. & Haensch, W. Algorithm for training neural networks on resistive device arrays. Front. Neurosci. 14,
        103 (2020). https://doi.org/10.3389/fnins.2020.00103
    """
    g_max = 25e-6
    states = integer("tiki_taka_training", "states", states, 1)
    law = SoftBoundsSteps(size=g_max / states, c2c=0.3, d2d=0.3, imbalance=imbalance, bounds_d2d=0.1)
    cell = ReferencedDevice(device=ideal_device(g_max=g_max, steps=law))
    return Hardware(cell=cell, scale=weight_max, pulses=Pulses(), fast=Fast(cell=cell, scale=weight_max, gain=gain))
