"""Several PCM pairs per weight, pulsed in turn."""

from __future__ import annotations

import functools

from torch import nn

import phasegrad as pg
from reproductions.experiment import Experiment, Method


def multi_memristive(pairs: int, lr: float) -> Method:
    """Weights of N pairs."""
    preset = functools.partial(pg.presets.multi_memristive_training, pairs=pairs)
    return Method(f"N = {pairs}", preset, lr=lr)


EXPERIMENT = Experiment(
    published="Boybat et al., Nat. Commun. 9:2514 (2018): the accuracy of a network of multi-memristive synapses rises "
    "with the number N of PCM devices per weight",
    chosen="the learning rate for each N, among 0.003, 0.006, 0.012 and 0.025, by the accuracy on the last 10,000 "
    "training images, excluded from training, after 5 epochs with seed 0; for N = 4 and more, the four are within a "
    "point",
    layers=(784, 250, 10),
    methods=(
        multi_memristive(1, lr=0.006),
        multi_memristive(2, lr=0.003),
        multi_memristive(4, lr=0.012),
        multi_memristive(7, lr=0.012),
    ),
    activation=nn.Tanh,
    images=10_000,
    epochs=5,
    batch=5,
    lr=0.05,
    averaged=3,
    seeds=(0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
)
