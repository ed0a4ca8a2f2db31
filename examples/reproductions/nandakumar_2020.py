"""Mixed-precision training of PCM pairs."""

from __future__ import annotations

import functools

import phasegrad as pg
from reproductions.experiment import Experiment, Method

EXPERIMENT = Experiment(
    published="Nandakumar et al., Front. Neurosci. 14:406 (2020): mixed precision on PCM pairs, 784-250-10, 97.73 %, "
    "within 0.6 points of software",
    chosen="the weight range, among 0.3, 0.6, 0.9, 1.2 and 2, on 10,000 training images held out from 20,000, where "
    "0.6 to 1.2 are equivalent; learning rate and decay are those of the float net",
    layers=(784, 250, 10),
    methods=(
        Method(
            "mixed precision",
            functools.partial(pg.presets.pcm_pair_training, weight_max=0.9),
            pg.optim.MixedPrecision,
        ),
    ),
)
