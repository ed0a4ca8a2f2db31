"""PCM pairs beside capacitors, taken apart: four ablations."""

from __future__ import annotations

import functools

from torch import nn

import phasegrad as pg
from reproductions.experiment import Experiment, Method

with_capacitor = pg.presets.pcm_capacitor_training

EXPERIMENT = Experiment(
    published="Ambrogio et al., Nature 558:60 (2018): 528-250-125-10 on PCM pairs and capacitors, with polarity "
    "inversion, is as accurate as software on MNIST (97.95 % against 97.94 %)",
    chosen="to be said",
    layers=(528, 250, 125, 10),
    methods=(
        Method("PCM pair", pg.presets.pcm_pair_training, lr=0.012),
        Method("+ ideal capacitor", functools.partial(with_capacitor, mismatch=0.0, spread=0.0, inversion=False)),
        Method("+ CMOS variability", functools.partial(with_capacitor, inversion=False)),
        Method("+ polarity inversion", with_capacitor),
    ),
    activation=nn.Tanh,
    crop=(24, 22),
    epochs=20,
    batch=5,
    lr=0.05,
)
