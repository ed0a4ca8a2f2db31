"""The estimate of moments agrees with sampled chips, and its parts with numerical integrals."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.crossbar import Wires
from phasegrad.inference import estimate_moments
from phasegrad.inference.gaussian_moments import MeanVariance, clipped, maximum, pointwise, probability_largest

DRAWS = 200_000
GENERATOR = torch.Generator()


def normals(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR.manual_seed(0), dtype=torch.float64)


def same(moments: MeanVariance, samples: Tensor) -> None:
    """Within 5 standard errors of mean and variance; the kurtosis of clipped normals here is below 15."""
    n, variance = len(samples), samples.var(0)
    assert ((moments.mean - samples.mean(0)).abs() < 5 * (variance / n).sqrt() + 1e-12).all()
    assert ((moments.variance - variance).abs() < 5 * variance * math.sqrt(15 / n) + 1e-12).all()


CASES = MeanVariance(
    torch.tensor([-2.0, -0.5, 0.0, 0.7, 3.0], dtype=torch.float64),
    torch.tensor([1.0, 0.2, 1.0, 2.0, 0.01], dtype=torch.float64),
)


@pytest.mark.parametrize(("low", "high"), [(0.0, math.inf), (-1.0, 1.0), (-math.inf, 0.5)])
def test_clipped_normals_have_their_moments(low: float, high: float) -> None:
    samples = CASES.mean + normals(DRAWS, 5) * CASES.variance.sqrt()
    same(clipped(CASES, low, high), samples.clamp(low, high))


def test_known_values_are_clipped_exactly() -> None:
    known = MeanVariance(torch.tensor([-3.0, 0.5]), torch.zeros(2))
    found = clipped(known, 0.0, math.inf)
    assert found.mean.tolist() == [0.0, 0.5]
    assert not found.variance.any()


def test_activations_and_maxima_have_their_moments() -> None:
    samples = CASES.mean + normals(DRAWS, 5) * CASES.variance.sqrt()
    same(pointwise(CASES, torch.tanh), samples.tanh())
    pair = [MeanVariance(CASES.mean[i], CASES.variance[i]) for i in (1, 3)]
    same(maximum(pair), samples[:, [1, 3]].amax(1))


def test_the_probability_to_be_largest_is_that_of_samples() -> None:
    samples = CASES.mean[1:4] + normals(DRAWS, 3) * CASES.variance[1:4].sqrt()
    share = (samples.argmax(1) == 2).double().mean()
    found = probability_largest(MeanVariance(CASES.mean[None, 1:4], CASES.variance[None, 1:4]), torch.tensor([2]))
    assert abs(float(found) - float(share)) < 5 * math.sqrt(0.25 / DRAWS) + 1e-3


MODELS = {
    "linear": (lambda: nn.Sequential(nn.Linear(64, 16)), (8, 64), 64),
    "row tiles": (lambda: nn.Sequential(nn.Linear(64, 16)), (8, 64), 24),
    "layers": (lambda: nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 8)), (8, 64), 512),
    "convolution": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(72, 6)
        ),
        (6, 4, 8, 8),
        512,
    ),
}


@pytest.mark.parametrize("time", [1.0, 3.15e7])
@pytest.mark.parametrize("name", MODELS)
def test_the_estimate_agrees_with_sampled_chips(name: str, time: float) -> None:
    """The standard error of a sampled mean is sd / sqrt(n), that of a sampled sd is sd / sqrt(2 n).

    Averaged over many outputs, the estimate may be off by a tenth of a standard deviation, and by 5 % of one, beyond
    that. Without drift spread or read noise in the weights the sd would be off by 10 % and more.
    """
    make, shape, rows = MODELS[name]
    chips = 60
    torch.manual_seed(0)
    net = pg.convert(make().eval(), dataclasses.replace(pg.presets.pcm_inference(), rows=rows))
    x = torch.randn(*shape)
    pg.hwa.calibrate(net, [x], recipe=None).eval()
    outputs = []
    for seed in range(chips):
        torch.manual_seed(seed)
        old = pg.inference.age(pg.inference.program(net, seed=seed), until=time)
        with torch.no_grad():
            outputs.append(pg.inference.compensate(old, seed=seed)(x))
    sampled = torch.stack(outputs)
    found, sd = estimate_moments(net, x, time=time), sampled.std(0)
    off = ((found.mean - sampled.mean(0)) / sd).square().mean().sqrt()
    assert off < math.sqrt(1 / chips) + 0.1
    assert abs(float((found.sd() / sd).log().mean().exp()) - 1.0) < 0.05 + 3 / math.sqrt(2 * chips * sd.numel() / 8)


def test_ideal_hardware_has_exact_moments() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Dropout(0.5), nn.Unflatten(1, (2, 3)), nn.Flatten()).double()
    x = torch.randn(4, 8, dtype=torch.float64)
    found = estimate_moments(pg.convert(model, pg.presets.ideal_inference()), x)
    with torch.no_grad():
        torch.testing.assert_close(found.mean, model.eval()(x), atol=1e-6, rtol=1e-6)
    assert found.sd().max() < 1e-6


def test_the_expected_accuracy_is_that_of_certain_outputs() -> None:
    net = pg.convert(nn.Sequential(nn.Linear(4, 4, bias=False)), pg.presets.ideal_inference())
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(4))
    found = estimate_moments(net, torch.eye(4))
    assert found.accuracy(torch.arange(4)) == pytest.approx(1.0)
    assert found.accuracy(torch.tensor([0, 1, 0, 0])) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="labels"):
        found.accuracy(torch.arange(3))


def wired() -> nn.Module:
    hardware = dataclasses.replace(pg.presets.pcm_inference(), wires=Wires(word_line=1.0, bit_line=1.0))
    return pg.convert(nn.Sequential(nn.Linear(4, 2)), hardware)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (wired, "the hardware of 0 has wires"),
        (lambda: pg.convert(nn.Sequential(nn.Linear(4, 2), nn.Softmax(1)), pg.presets.pcm_inference()),
         "1 is a Softmax"),
        (lambda: pg.convert(nn.Sequential(nn.LSTM(4, 2)), pg.presets.pcm_inference()), "0 is a AnalogLSTM"),
        (lambda: pg.inference.program(pg.convert(nn.Sequential(nn.Linear(4, 2)), pg.presets.pcm_inference())),
         "0 is programmed already"),
        (lambda: nn.Sequential(nn.Linear(4, 2)), "no analog layer"),
    ],
)  # fmt: skip
def test_what_the_estimate_does_not_cover_is_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate_moments(make(), torch.randn(3, 4))  # type: ignore[operator]
