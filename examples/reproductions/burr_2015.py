"""PCM pairs with jump tables, and an ideal device."""

from __future__ import annotations

import functools

from torch import nn

from phasegrad.cells import DifferentialPair, ReferencedDevice
from phasegrad.crossbar import Hardware, Pulses
from phasegrad.devices import ConstantSteps, JumpTable, ideal_device, nandakumar_2018
from reproductions.experiment import Experiment, Method


def pcm_pair(weight_max: float, refresh: int = 100) -> Hardware:
    """PCM pairs whose steps are drawn from histograms per conductance, measured on SET pulse trains after RESET."""
    table = JumpTable.from_law(nandakumar_2018(), g_max=12e-6, trains=4000)
    device = ideal_device(g_max=12e-6, steps=table)
    cell = DifferentialPair(device=device, refresh=refresh, reach=10.5e-6)  # the mean step vanishes there
    return Hardware(cell=cell, scale=weight_max, pulses=Pulses())


def ideal() -> Hardware:
    """Identical devices with equal steps up and down, 4,000 from bound to bound."""
    device = ideal_device(g_max=25e-6, steps=ConstantSteps(size=25e-6 / 4000))
    return Hardware(cell=ReferencedDevice(device=device), scale=2.0, pulses=Pulses())


EXPERIMENT = Experiment(
    published="Burr et al., IEEE TED 62:3498 (2015): 528-250-125-10 on two PCM devices per weight, 5,000 examples: "
    "82.2 % on the training and 82.9 % on the test images; a symmetric linear device is as accurate as software",
    chosen="the weight range of the PCM pair, among 0.15, 0.3, 0.6 and 1.2, and its learning rate, among 0.003, 0.006, "
    "0.012 and 0.025, by the accuracy on the training images after 10 epochs with seed 0; the ideal device has the "
    "learning rate of the float net. "
    "Batches of 5: the images of a batch pulse the devices one after another, but are read with the same weights",
    layers=(528, 250, 125, 10),
    methods=(
        Method("ideal linear device", ideal),
        Method("PCM pair", functools.partial(pcm_pair, weight_max=0.3), lr=0.012),
    ),
    activation=nn.Tanh,
    crop=(24, 22),
    images=5_000,
    epochs=20,
    batch=5,
    lr=0.05,
    on_training=True,
)
