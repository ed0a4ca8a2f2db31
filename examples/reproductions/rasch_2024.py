"""Choppers on devices with few states and unknown, varying symmetric points."""

from __future__ import annotations

import dataclasses
import functools

from torch import nn

import phasegrad as pg
from reproductions.experiment import Experiment, Method


def one_array() -> pg.Hardware:
    """The same devices, without the fast array."""
    return dataclasses.replace(pg.presets.tiki_taka_training(), fast=None)


EXPERIMENT = Experiment(
    published="Rasch et al., Nat. Commun. 15:7133 (2024): c-TTv2 and AGAD train networks on asymmetric, noisy devices "
    "without a calibrated symmetric point, on which plain pulsed SGD fails",
    chosen="the learning rate of each method, by the accuracy on the last 10,000 training images, excluded from "
    "training, after 3 epochs with seed 0: among 0.02, 0.05 and 0.1 for float, among 0.005, 0.01, 0.02, 0.05 and 0.1 "
    "for plain pulses, where the first three are equivalent, among 0.01, 0.02 and 0.05 for TTv2, among 0.02, 0.05 and "
    "0.1 for c-TTv2, among 0.01, 0.02, 0.05 and 0.1 for AGAD; and 0.3 pulses, among 0.1, 0.3 and 1, for c-TTv2 and "
    "AGAD",
    layers=(784, 250, 10),
    methods=(
        Method("AnalogSGD", one_array, lr=0.01),
        Method("TTv2", pg.presets.tiki_taka_training, functools.partial(pg.optim.TikiTakaV2, pulses=0.3), lr=0.05),
        Method(
            "c-TTv2",
            pg.presets.tiki_taka_training,
            functools.partial(pg.optim.ChoppedTikiTakaV2, pulses=0.3),
            lr=0.05,
        ),
        Method("AGAD", pg.presets.tiki_taka_training, functools.partial(pg.optim.AGAD, pulses=0.3), lr=0.02),
    ),
    activation=nn.Tanh,
    images=20_000,
    epochs=5,
    decay=0.8,
)
