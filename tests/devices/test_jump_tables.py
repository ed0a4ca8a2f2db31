"""Tables built from raw data and from another law."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats
from tests.devices.test_steps import pulse
from torch import Tensor

import phasegrad as pg
from phasegrad.configuration import from_json
from phasegrad.devices import JumpTable, SoftBoundsSteps, Steps, ideal_device, nandakumar_2018
from phasegrad.stores import pulsed_weight

G_MAX = 20e-6
BOUND = 5.0
POINTS, QUANTILES = 41, 101


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def skewed(n: int, sign: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Pulses of a known law: ``s (1.5 - g) + 0.5 s (1 + g) (E - 1)``, E exponential; s a hundredth of the range."""
    g = torch.rand(n, generator=generator(seed), dtype=torch.float64)
    e = torch.empty(n, dtype=torch.float64).exponential_(generator=generator(seed + 1))
    return g * G_MAX, (g + sign * 0.01 * (1.5 - g + 0.5 * (1.0 + g) * (e - 1.0))) * G_MAX


def steps(law: Steps, g: float, n: int, *, up: bool = True, seed: int = 7) -> np.ndarray:
    """Steps of one pulse on ``n`` devices at ``g`` of the range, in hundredths of the range."""
    start = torch.full((n,), g * G_MAX)
    return ((pulse(law, start, 1, up=up, seed=seed) - start.double()) / (0.01 * G_MAX)).numpy()


@pytest.fixture(scope="module")
def table() -> JumpTable:
    up, down = skewed(400_000), skewed(400_000, -1.0, seed=10)
    return JumpTable.from_pulses(up, down, g_max=G_MAX, points=POINTS, quantiles=QUANTILES)


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("g", [0.2, 0.41, 0.633, 0.8])
def test_raw_pulses_give_their_mean_and_spread_back(table: JumpTable, g: float, up: bool) -> None:
    n, behind = 100_000, 400_000 / POINTS
    found = steps(table, g, n, up=up) * (1.0 if up else -1.0)
    mean, sd = 1.5 - g, 0.5 * (1.0 + g)
    # Both the steps of the op and the data of the table are samples; an exponential has a kurtosis of 9.
    error = math.sqrt(1.0 / n + 1.0 / behind)
    assert abs(found.mean() - mean) < BOUND * sd * error
    assert abs(found.std() / sd - 1.0) < BOUND * math.sqrt(8.0 / 4.0) * error


def test_raw_pulses_give_their_distribution_back(table: JumpTable) -> None:
    n, g = 20_000, 0.5
    sd = 0.5 * (1.0 + g)
    found = stats.kstest(steps(table, g, n), stats.expon(loc=1.5 - g - sd, scale=sd).cdf)
    # Kolmogorov distance, which each of both samples exceeds once in 10,000 times.
    assert found.statistic < 2.23 * (n**-0.5 + (400_000 / POINTS) ** -0.5)


def test_a_table_of_a_law_steps_as_the_law_does() -> None:
    law = SoftBoundsSteps(size=0.2e-6, c2c=0.5)
    table = JumpTable.from_law(law, g_max=G_MAX, trains=4_000, points=POINTS, quantiles=QUANTILES)
    n = 20_000
    for up in (True, False):
        for g in (0.3, 0.5, 0.77):
            mean = 2.0 * ((1.0 - g) if up else -g)
            ours, theirs = steps(table, g, n, up=up), steps(law, g, n, up=up, seed=8)
            # Every bin in between has far more pulses than are drawn here.
            assert abs(ours.mean() - mean) < BOUND * 0.5 * abs(mean) * math.sqrt(2.0 / n)
            assert abs(ours.std() / (0.5 * abs(mean)) - 1.0) < BOUND * math.sqrt(2.0 * 0.5 / n)
            assert stats.ks_2samp(ours, theirs).pvalue > 1e-4


def test_a_table_of_pcm_is_the_mixture_that_trains_from_reset_meet() -> None:
    law, trains = nandakumar_2018(), 20_000
    table = JumpTable.from_law(law, g_max=G_MAX, trains=trains, length=20, points=POINTS, quantiles=QUANTILES)
    assert (table.two_sided, table.reset, table.size) == (False, law.reset, law.size)
    # An independent simulation of PHYSICS section 1, in microsiemens.
    rng = np.random.default_rng(3)
    g, p, before, after = np.full(trains, 0.1), 1.0, [], []
    for _ in range(20):
        p *= math.exp(-1.0 / 2.6)
        before.append(g)
        xi = rng.standard_normal(trains)
        g = np.clip(g - 0.084 * g + 0.880 + 1.40 * p + (0.091 * g + 0.260 + 2.15 * p) * xi, 0.1, 20.0)
        after.append(g)
    before, change = np.concatenate(before), np.concatenate(after) - np.concatenate(before)
    spacing = 19.9 / (POINTS - 1)
    for point in (4, 10, 18):
        at = 0.1 + point * spacing
        law_steps = change[np.abs(before - at) < spacing / 2]
        found = pulse(table, torch.full((20_000,), at * 1e-6), 1).numpy() * 1e6 - at
        behind = len(law_steps)
        error = math.sqrt(1.0 / len(found) + 2.0 / behind)
        kurtosis = ((law_steps - law_steps.mean()) ** 4).mean() / law_steps.var() ** 2
        assert behind > 2_000
        assert abs(found.mean() - law_steps.mean()) < BOUND * law_steps.std() * error
        assert abs(found.std() / law_steps.std() - 1.0) < BOUND * math.sqrt((kurtosis - 1.0) / 4.0) * error
        assert stats.ks_2samp(found, law_steps).statistic < 2.23 * (20_000**-0.5 + 2.0 * behind**-0.5)


def test_spread_between_devices_is_carried_over_and_not_lumped() -> None:
    law = SoftBoundsSteps(size=0.2e-6, d2d=0.3, imbalance=0.1, bounds_d2d=0.05, stuck=0.02)
    table = JumpTable.from_law(law, g_max=G_MAX, trains=1_000, points=11, quantiles=11)
    assert [getattr(table, k) for k in ("d2d", "imbalance", "bounds_d2d", "stuck")] == [0.3, 0.1, 0.05, 0.02]
    middle = torch.tensor(table.up[5])
    assert (middle.max() - middle.min()).item() < 0.22  # twice 0.1, the variation of a noiseless law over a bin


def test_a_table_of_a_device_that_only_grows_trains_in_a_pair() -> None:
    table = JumpTable.from_law(nandakumar_2018(), g_max=12e-6, trains=200)
    device = ideal_device(g_max=12e-6, steps=table)
    hardware = pg.Hardware(cell=pg.cells.DifferentialPair(device=device), scale=0.3, pulses=pg.crossbar.Pulses())
    layer = pg.nn.AnalogLinear(20, 10, hardware=hardware)
    devices = layer.devices
    assert (devices.conductance >= table.reset * (1.0 - 1e-6)).all()
    before = devices.conductance.clone()
    pulsed_weight.update(
        devices, [(torch.ones(5, 20), -torch.ones(5, 10))], 0.1, torch.tensor([1]), torch.zeros(10, 20)
    )
    grown = devices.conductance - before
    assert grown[0].mean() > 0.5e-6
    assert (grown[1] == 0.0).all()  # a weight that grows is not pulsed on its second device
    with pytest.raises(ValueError, match="JumpTable only raises a conductance"):
        dataclasses.replace(hardware, cell=pg.cells.ReferencedDevice(device=device))
    assert from_json(device.to_json()) == device


def test_empty_points_are_interpolated_and_the_ends_take_their_neighbour() -> None:
    g = torch.tensor([0.2, 0.6]).repeat_interleave(500).double()
    change = torch.linspace(-1.0, 1.0, 500, dtype=torch.float64).repeat(2) * 0.01 + g * 0.1
    table = JumpTable.from_pulses(
        (g * G_MAX, (g + change) * G_MAX), g_max=G_MAX, size=0.1 * G_MAX, points=11, quantiles=5
    )
    medians = [row[2] for row in table.up]
    expected = [0.2] * 3 + [0.3, 0.4, 0.5] + [0.6] * 5
    assert medians == pytest.approx(expected, abs=1e-6)


def test_conductances_beyond_an_end_belong_to_it() -> None:
    before = torch.cat((torch.full((50,), -0.3e-6), torch.full((50,), 1.2 * G_MAX)))
    table = JumpTable.from_pulses((before, before + 1e-7), g_max=G_MAX, points=2, quantiles=3)
    assert table.size == pytest.approx(1e-7, rel=1e-4)
    assert torch.tensor(table.up).tolist() == [pytest.approx([1.0] * 3, rel=1e-4)] * 2


def good(n: int = 100) -> Tensor:
    return torch.linspace(0.0, G_MAX, n)


@pytest.mark.parametrize(
    ("up", "fields", "message"),
    [
        ((good(), good(99)), {}, r"up has conductances of shape \[100\] before and \[99\] after"),
        ((good().view(10, 10), good().view(10, 10)), {}, r"up has conductances of shape \[10, 10\]"),
        ((good(), good() * math.nan), {}, "up has conductances that are not finite"),
        ((good() + math.inf, good()), {}, "up has conductances that are not finite"),
        ((good(), good() + 1e-7), {"quantiles": 30}, "100 pulses up are too few for 5 points of 30 quantiles"),
        ((good(0), good(0)), {"size": 1e-7}, "0 pulses up are too few"),
        ((good(), good() - 1e-7), {}, "size = -.*the mean step up, must be above 0"),
        ((good(), good() + 1e-7), {"size": 0.0}, "size = 0.0 S"),
        ((good() * 1e6, good() * 1e6 + 0.1), {}, r"up starts at conductances of 0 to 20 S, far outside .* in siemens"),
        ((good(), good() + 1e-7), {"points": 1}, "points = 1 and quantiles = 5"),
        ((good(), good() + 1e-7), {"reset": 30e-6}, "0 <= reset < g_max"),
        ((good(), good() + 1e-7), {"g_max": math.nan}, "g_max = nan"),
        ((good(), good() + 1e-7), {"down": (good(), good(9))}, "down has conductances of shape"),
        ((good(), good() + 1e-7), {"down": (good(9), good(9))}, "9 pulses down are too few"),
    ],
)
def test_bad_data_is_refused(up: tuple[Tensor, Tensor], fields: dict[str, object], message: str) -> None:
    arguments = {"g_max": G_MAX, "points": 5, "quantiles": 5} | fields
    with pytest.raises(ValueError, match=message):
        JumpTable.from_pulses(up, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("fields", [{"trains": 0}, {"length": 0}])
def test_a_simulation_without_pulses_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"(trains|length) = 0.*each must be 1 or more"):
        JumpTable.from_law(nandakumar_2018(), g_max=12e-6, **fields)


ROW = ((0.0, 1.0), (0.0, 1.0))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"up": ((0.0, 1.0),)}, "1 rows up and 0 down"),
        ({"up": ROW, "down": ((0.0, 1.0),)}, "2 rows up and 1 down"),
        ({"up": ((0.0, 1.0, 2.0), (0.0, 1.0))}, "quantiles; give two or more rows"),
        ({"up": ((1.0, 0.5), (0.0, 1.0))}, "not an inverse CDF"),
        ({"up": ROW, "down": ((0.0, math.nan), (0.0, 1.0))}, "not an inverse CDF"),
        ({"up": ((0.0,), (0.0,))}, "not an inverse CDF"),
        ({"up": ROW, "c2c": 0.1}, "c2c = 0.1"),
        ({"up": ROW, "reset": -1e-6}, "reset = -1e-06"),
    ],
)
def test_what_is_no_table_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JumpTable(size=1e-8, **fields)  # type: ignore[arg-type]
