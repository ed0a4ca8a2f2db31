"""Stochastic pulses on devices with constant steps."""

from __future__ import annotations

import phasegrad as pg
from reproductions.experiment import Experiment, Method

EXPERIMENT = Experiment(
    published="Gokmen and Vlasov, Front. Neurosci. 10:333 (2016): 784-256-128-10 on devices with 1,200 steps and "
    "30 % variation, is within 0.6 points of float",
    chosen="nothing: learning rate and decay are those of the float net",
    layers=(784, 256, 128, 10),
    methods=(Method("stochastic pulses", pg.presets.constant_step_training),),
)
