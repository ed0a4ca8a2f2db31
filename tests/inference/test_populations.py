"""Intervals, the worst chip and the yield of a population, and what a killed measurement leaves behind."""

from __future__ import annotations

import gc
import math
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import phasegrad as pg
from phasegrad.inference import Report, accuracy_over_time, program
from phasegrad.inference.confidence import proportion_interval, student_quantile

REPORT = Report((1.0, 3600.0), np.array([[0.9, 0.7, 0.8, 1.0], [0.5, 0.5, 0.7, 0.6]]), 7, "tile")


def net() -> nn.Module:
    torch.manual_seed(0)
    return pg.convert(nn.Sequential(nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3)), pg.presets.pcm_inference())


def size(chip: nn.Module) -> float:
    with torch.no_grad():
        return chip(torch.eye(12)).square().sum().item()


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.7062), (2, 4.30265), (5, 2.57058), (24, 2.06390)])
def test_quantiles_of_student_are_those_of_tables(freedom: int, quantile: float) -> None:
    assert student_quantile(0.975, freedom) == pytest.approx(quantile, rel=1e-5)


@pytest.mark.parametrize(("statistic", "truth"), [("mean", 0.5), ("median", math.log(2.0) / 2.0)])
def test_intervals_cover_the_population(statistic: str, truth: float) -> None:
    """The share of intervals of 40 exponential values that contain the truth has a standard error of 1.1 %.

    Skewness costs 1 % for the mean at this n, the steps of order statistics 1 % for the median, so 3 % and 3 standard
    errors are allowed. Intervals half as wide would cover 67 %.
    """
    trials = 400
    values = np.random.default_rng(0).exponential(0.5, (trials, 40))
    low, high = Report(tuple(map(float, range(trials))), values, 0, None).interval(statistic, resamples=1000)
    covered = ((low <= truth) & (truth <= high)).mean()
    assert abs(covered - 0.95) < 0.03 + 3 * math.sqrt(0.95 * 0.05 / trials)


def test_the_interval_of_a_normal_mean_has_the_width_of_student() -> None:
    n, values = 12, np.random.default_rng(1).normal(size=(200, 12))
    low, high = Report(tuple(map(float, range(200))), values, 0, None).interval(resamples=2000)
    expected = 2 * student_quantile(0.975, n - 1) * values.std(1, ddof=1) / math.sqrt(n)
    # The percentiles of means of 12 values are closer together than normal ones where their kurtosis is negative.
    assert np.median((high - low) / expected) == pytest.approx(1.0, abs=0.06)


def test_intervals_use_their_own_generator() -> None:
    before, state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = REPORT.interval(), REPORT.interval()
    np.testing.assert_array_equal(first, second)
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_worst_and_yield_are_those_of_the_values() -> None:
    np.testing.assert_array_equal(REPORT.worst(), [0.7, 0.5])
    np.testing.assert_array_equal(REPORT.yield_above(0.7), [1.0, 0.25])  # a chip at the threshold passes
    low, high = REPORT.yield_interval(0.7)
    assert (low[0], high[0]) == (pytest.approx(0.025 ** (1 / 4)), 1.0)  # all four pass
    assert low[1] == pytest.approx(0.0063, abs=1e-4)


def test_exact_intervals_of_a_proportion_are_those_of_tables() -> None:
    low, high = proportion_interval(np.array([0, 5, 10]), 10, 0.95)
    np.testing.assert_allclose(low, [0.0, 0.18709, 0.69150], atol=1e-5)
    np.testing.assert_allclose(high, [0.30850, 0.81291, 1.0], atol=1e-5)


def test_a_table_shows_the_yield_at_a_threshold(tmp_path: Path) -> None:
    text = REPORT.table(threshold=0.7)
    assert "yield at 0.7" in text
    assert "25.0% (1% - 81%)" in text
    REPORT.summary_to_csv(tmp_path / "summary.csv", 0.7)
    head, first, *_ = (tmp_path / "summary.csv").read_text().splitlines()
    assert head.split(",")[-4:] == ["yield", "yield_low", "yield_high", "chips"]
    assert [float(value) for value in first.split(",")[:2]] == pytest.approx([1.0, 0.85])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: REPORT.interval("mode"), "statistic = 'mode'"),
        (lambda: REPORT.interval(confidence=1.0), "confidence = 1.0; no finite sample"),
        (lambda: REPORT.interval(confidence=0.0), "confidence = 0.0"),
        (lambda: REPORT.interval(resamples=10), "resamples = 10"),
        (lambda: REPORT.yield_above(math.nan), "threshold = nan"),
        (lambda: REPORT.chip_seed(4), "chip = 4"),
        (lambda: Report((1.0,), np.ones((1, 1)), 0, None).interval(), "chips = 1; measure at least 2 chips"),
        (lambda: Report((1.0,), np.ones((1, 1)), 0, None).plot_population(), "chips = 1"),
    ],
)
def test_bad_arguments_are_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


def test_a_chip_of_the_population_can_be_programmed_again() -> None:
    found: list[torch.Tensor] = []
    module = net()

    def evaluate(chip: nn.Module) -> float:
        found.append(chip[0].devices.conductance.clone())
        return 0.0

    report = accuracy_over_time(module, evaluate, (1.0,), chips=3, seed=5, progress=False)
    assert torch.equal(found[2], program(module, seed=report.chip_seed(2))[0].devices.conductance)


def test_one_chip_at_a_time_is_in_memory() -> None:
    chips: list[weakref.ref[nn.Module]] = []

    def evaluate(chip: nn.Module) -> float:
        gc.collect()  # modules may be parts of reference cycles
        chips.append(weakref.ref(chip))
        return float(sum(ref() is not None for ref in {id(r()): r for r in chips}.values()))

    assert accuracy_over_time(net(), evaluate, (1.0, 3600.0), chips=4, progress=False).values.max() == 1.0


def test_a_killed_evaluation_leaves_net_and_generator_as_they_were() -> None:
    module = net().train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()

    def evaluate(chip: nn.Module) -> float:
        torch.rand(7)
        raise KeyboardInterrupt

    for measure in (
        lambda: accuracy_over_time(module, evaluate, chips=2, progress=False),
        lambda: pg.inference.sensitivity(module, evaluate, chips=2, progress=False),
        lambda: pg.inference.design_map(module, evaluate, chips=2, progress=False),
    ):
        with pytest.raises(KeyboardInterrupt):
            measure()
        assert torch.equal(state, torch.get_rng_state())
        assert module.training
        assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_a_net_in_the_memory_is_refused_with_the_way_out() -> None:
    trained = pg.convert(nn.Sequential(nn.Linear(4, 3)), pg.presets.pcm_capacitor_training())
    for measure in (pg.inference.sensitivity, pg.inference.design_map):
        with pytest.raises(ValueError, match=r"0 is .* already; pass the converted net"):
            measure(trained, lambda chip: 1.0, progress=False)


def test_population_draws_every_chip_and_the_threshold() -> None:
    pytest.importorskip("matplotlib")
    over_time, passing = REPORT.plot_population(threshold=0.7).axes
    drawn = [line.get_ydata() for line in over_time.lines]
    for chip in REPORT.values.T:
        assert any(np.allclose(line, 100 * chip) for line in drawn if len(line) == 2)
    labels = [text.get_text() for text in passing.get_legend().get_texts()]
    assert labels == ["1 s: 100%", "1 h: 25%"]
