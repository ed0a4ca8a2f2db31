"""Every compensation on every kind of chip: effect, state, cost and errors."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.cells import DifferentialPair, DifferentialSlices
from phasegrad.crossbar import DurationCodedDrop, Hardware, Integrator, Pulses, Wires
from phasegrad.devices import Faults, Thermal, joshi_2020, nandakumar_2018_device
from phasegrad.inference import (
    AdaBS,
    ColumnRanges,
    Compensation,
    GlobalDrift,
    PercentileRanges,
    ReferenceColumns,
    SlopeCorrection,
    accuracy_over_time,
    age,
    compensate,
    program,
)
from phasegrad.inference.compensations.slope_correction import mean_drift

YEARS = 1.6e8
Chip = Callable[[], tuple[nn.Module, Tensor]]


def converted(net: nn.Module, x: Tensor, hardware: Hardware | None = None) -> tuple[nn.Module, Tensor]:
    analog = pg.convert(net, hardware or pg.presets.pcm_inference())
    pg.hwa.calibrate(analog, [x], recipe=None)
    return analog, x


def linear() -> tuple[nn.Module, Tensor]:
    hardware = dataclasses.replace(pg.presets.pcm_inference(), rows=10, columns=4)  # several tiles
    net = nn.Sequential(nn.Linear(24, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 5))
    return converted(net, torch.randn(64, 24), hardware)


def convolution() -> tuple[nn.Module, Tensor]:
    net = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5))
    return converted(net, torch.randn(16, 4, 6, 6))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.norm, self.last = nn.LSTM(6, 8, batch_first=True), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.lstm(x)[0][:, -1]))


def recurrent() -> tuple[nn.Module, Tensor]:
    return converted(Recurrent(), torch.randn(16, 5, 6))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 8)
        self.last.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)).relu())


def tied() -> tuple[nn.Module, Tensor]:
    return converted(Tied(), torch.randn(32, 8))


def sliced() -> tuple[nn.Module, Tensor]:
    cell = DifferentialSlices(device=joshi_2020(), slices=2)
    net = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    return converted(net, torch.randn(32, 16), dataclasses.replace(pg.presets.pcm_inference(), cell=cell))


def wired() -> tuple[nn.Module, Tensor]:
    wires = dataclasses.replace(pg.presets.pcm_inference(), wires=Wires(word_line=1.0, bit_line=1.0))
    return converted(nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)), torch.randn(32, 8), wires)


def faulty() -> tuple[nn.Module, Tensor]:
    faults = Faults(stuck_at_set=0.05, dead_rows=0.1)
    net = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    return converted(net, torch.randn(32, 16), dataclasses.replace(pg.presets.pcm_inference(), faults=faults))


def in_memory() -> tuple[nn.Module, Tensor]:
    net = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    cell = DifferentialPair(device=nandakumar_2018_device(), refresh=5, reach=10.5e-6)
    analog, x = pg.convert(net, Hardware(cell=cell, scale=0.3, pulses=Pulses())), torch.randn(32, 8)
    optimizer = pg.optim.AnalogSGD(analog.parameters(), lr=0.1)
    analog(x).square().mean().backward()
    optimizer.step()
    return analog.eval(), x


def wide() -> tuple[nn.Module, Tensor]:
    net, x = converted(
        nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).double(), torch.randn(32, 16).double()
    )
    return net, x


CHIP_FUNCTIONS = (linear, convolution, recurrent, tied, sliced, wired, faulty, wide, in_memory)
CHIPS: dict[str, Chip] = {f.__name__: f for f in CHIP_FUNCTIONS}
MAKE: dict[str, Callable[[Tensor], Any]] = {
    "tile": lambda x: "tile",
    "column": lambda x: GlobalDrift(per="column"),
    "slope": lambda x: SlopeCorrection(),
    "columns": lambda x: ReferenceColumns(count=2),
    "adabs": lambda x: AdaBS([x, x]),
    "both": lambda x: ("layer", AdaBS([x, x])),
    "tracked": lambda x: (ReferenceColumns(), AdaBS([x], batches=1)),
    "ranges": lambda x: ("tile", ColumnRanges([x, x])),
}
every_chip = pytest.mark.parametrize("kind", CHIPS)
every_compensation = pytest.mark.parametrize("how", MAKE)


def aged(kind: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    net, x = CHIPS[kind]()
    chip = net if kind == "in_memory" else program(net, seed=1)
    return age(chip, seconds=YEARS), x


def answers(chip: nn.Module, x: Tensor, seed: int = 5) -> Tensor:
    torch.manual_seed(seed)
    with torch.no_grad(), pg.inference.sampled_reads():
        return chip(x)


def loaded(chip: nn.Module, state: dict[str, Any]) -> nn.Module:
    chip.load_state_dict(state)
    return chip


@every_chip
@every_compensation
def test_a_compensated_chip_is_the_same_in_every_copy_and_file(kind: str, how: str) -> None:
    chip, x = aged(kind)
    before = answers(chip, x)
    if (kind, how) == ("in_memory", "ranges"):
        pytest.skip("its converters have one range; the error is tested with ColumnRanges")
    better = compensate(chip, MAKE[how](x), seed=2)
    assert torch.equal(answers(chip, x), before)
    found = answers(better, x)
    assert found.isfinite().all()
    assert not torch.equal(found, before)
    if how not in ("adabs", "both", "tracked", "ranges"):  # whose batches draw from torch's generator
        assert torch.equal(answers(compensate(chip, MAKE[how](x), seed=2), x), found)
    file = io.BytesIO()
    torch.save(better, file)
    file.seek(0)
    copies = [copy.deepcopy(better), torch.load(file, weights_only=False)]
    copies.append(loaded(copy.deepcopy(chip), better.state_dict()))
    for other in copies:
        assert torch.equal(answers(other, x), found)
    older = [answers(age(c, seconds=YEARS), x) for c in (better, *copies)]
    assert all(torch.equal(o, older[0]) for o in older)


def test_a_state_without_reference_columns_removes_them() -> None:
    chip, x = aged("linear")
    better = compensate(chip, ReferenceColumns(count=3), seed=2)
    assert torch.equal(answers(loaded(better, chip.state_dict()), x), answers(chip, x))


@pytest.mark.parametrize("assign", [False, True])
def test_a_compensated_chip_is_loaded_into_nets_that_were_never_programmed(assign: bool) -> None:
    hardware = dataclasses.replace(
        pg.presets.pcm_inference(), rows=16, columns=8, wires=Wires(word_line=1.0, bit_line=1.0),
        faults=Faults(stuck_at_set=0.05),
    )  # fmt: skip

    def made() -> nn.Module:
        torch.manual_seed(0)
        return converted(nn.Sequential(nn.Linear(20, 12)), torch.randn(32, 20), hardware)[0]

    x = torch.randn(32, 20)
    chip = age(program(made(), seed=1), seconds=YEARS)
    better = compensate(chip, (ReferenceColumns(count=2), ColumnRanges([x])), seed=2)
    others = [made(), program(made(), seed=5)]
    if assign:
        with torch.device("meta"):
            others.append(pg.convert(nn.Sequential(nn.Linear(20, 12)), hardware))
    for other in others:
        other.load_state_dict(better.state_dict(), assign=assign)
        assert torch.equal(answers(other.eval(), x), answers(better, x))


def test_a_damaged_state_changes_nothing() -> None:
    chip, x = aged("linear")
    better, target = compensate(chip, ReferenceColumns(count=3), seed=2), copy.deepcopy(chip)
    state = better.state_dict()
    del state["0.devices.drift_reference.nu"]
    with pytest.raises(ValueError, match=r"drift_reference\.nu is missing"):
        target.load_state_dict(state)
    assert torch.equal(answers(target, x), answers(chip, x))


def test_slope_correction_is_the_mean_of_the_law_of_drift() -> None:
    device = dataclasses.replace(joshi_2020(), nu_mean=pg.devices.Curve(polynomial=(0.06,)), nu_sd=pg.devices.Curve())
    assert mean_drift(device, YEARS) == pytest.approx((1.0 + YEARS / 20.0) ** -0.06, rel=1e-5)
    spread = dataclasses.replace(device, nu_sd=pg.devices.Curve(polynomial=(0.01,)))
    log = math.log(1.0 + YEARS / 20.0)
    # E[exp(-nu log)] of a normal nu; its relative sd over devices is sqrt(exp((0.01 log)^2) - 1) = 0.16
    law, sd = math.exp(-0.06 * log + 0.5 * (0.01 * log) ** 2), math.sqrt(math.expm1((0.01 * log) ** 2))
    n = (1 << 13) * 3 / 4  # effective number of devices when the weight of each is its conductance
    assert mean_drift(spread, YEARS) == pytest.approx(law, rel=4 * sd / math.sqrt(n))


def test_slope_correction_with_an_exponent() -> None:
    chip, _ = aged("linear")
    gain = compensate(chip, SlopeCorrection(exponent=0.05, t0=20.0))[0].devices.gain
    assert torch.allclose(gain, torch.full_like(gain, (1.0 + YEARS / 20.0) ** 0.05))


def quiet_columns(count: int, seed: int) -> Tensor:
    """The gains of eight tiles of chips of which nothing but the exponents differs."""
    device = dataclasses.replace(
        joshi_2020(), nu_mean=pg.devices.Curve(polynomial=(0.06,)), nu_sd=pg.devices.Curve(polynomial=(0.01,)),
        programming_sd=(0.0,), read_noise=None,
    )  # fmt: skip
    hardware = Hardware(cell=DifferentialPair(device=device), rows=64, columns=8)
    chip = age(program(pg.convert(nn.Linear(64 * 8, 8), hardware), seed=seed), seconds=YEARS)
    return compensate(chip, ReferenceColumns(count=count), seed=seed).devices.present_gain(None)[:, 0]


def test_reference_columns_find_the_mean_drift_with_the_error_of_their_number() -> None:
    log = math.log(1.0 + YEARS / 20.0)
    law, sd = math.exp(0.06 * log - 0.5 * (0.01 * log) ** 2), math.sqrt(math.expm1((0.01 * log) ** 2))
    for count in (1, 16):
        gains = torch.cat([quiet_columns(count, seed) for seed in range(8)])  # 64 tiles
        expected = sd / math.sqrt(count * 64 * 3 / 4)
        assert float(gains.mean()) == pytest.approx(law, rel=4 * expected / 8 + expected**2)
        assert float(gains.std() / law) == pytest.approx(expected, rel=4 / math.sqrt(2 * 63))


def test_reference_columns_follow_age_and_their_noise_is_that_of_each_product() -> None:
    chip, _ = aged("linear")
    better = compensate(chip, ReferenceColumns(), seed=0)
    devices = age(better, seconds=9 * YEARS)[0].devices
    assert bool((devices.present_gain(None) > better[0].devices.present_gain(None)).all())
    one, other = (devices.present_gain(torch.tensor([seed])) for seed in (0, 1))
    assert not torch.equal(one, other)
    assert torch.equal(one, devices.present_gain(torch.tensor([0])))


def test_reference_columns_follow_the_temperature() -> None:
    cell = DifferentialPair(device=dataclasses.replace(joshi_2020(), thermal=Thermal()))
    torch.manual_seed(0)
    net = pg.convert(nn.Linear(32, 8), dataclasses.replace(pg.presets.ideal_inference(), cell=cell))
    better = compensate(age(program(net, seed=0), seconds=3600.0), ReferenceColumns(count=4), seed=0)
    hot = age(better, seconds=1.0, temperature=330.0).devices
    raw = (hot.mean_tile_weights(torch.float32).weight.abs().sum() / net.weight.abs().sum()).item()
    assert float(hot.present_gain(None).mean()) == pytest.approx(1.0 / raw, rel=0.05)


@pytest.mark.parametrize("ways", [(), ("pair",)])
def test_reference_columns_are_stuck_as_often_as_the_weights(ways: tuple[str, ...]) -> None:
    faults = Faults(stuck_at_set=0.1, stuck_at_reset=0.05, dead_rows=0.05)
    hardware = dataclasses.replace(pg.presets.pcm_inference(), rows=128, columns=32)
    torch.manual_seed(0)
    chip = program(pg.convert(nn.Linear(512, 64), hardware), seed=0, faults=faults, map_around=ways)
    devices = compensate(age(chip, seconds=YEARS), ReferenceColumns(count=8), seed=0).devices
    tracked, n = devices.drift_reference, 2 * 2 * 8 * 512
    stuck = ~tracked.stuck.isnan()
    dead = (~devices.stuck.isnan()).view(2, 2, 32, 512).all(2).all(0)  # rows of each column tile
    assert 0 < int(dead.sum()) < 200
    assert bool((stuck.view(2, 2, 8, 512).all(2).all(0) >= dead).all())
    law = 0.15 + 0.85 * float(dead.double().mean())
    assert float(stuck.double().mean()) == pytest.approx(law, abs=4 * math.sqrt(law * (1 - law) / n))
    assert torch.equal(tracked.present(devices.clock)[stuck], tracked.stuck[stuck])
    again = compensate(age(chip, seconds=YEARS), ReferenceColumns(count=8), seed=0).devices.drift_reference
    assert torch.equal(again.conductance, tracked.conductance)
    assert (tracked.corrects_stuck is None) is (ways == ())
    healthy = compensate(program(pg.convert(nn.Linear(64, 8), hardware), seed=0), ReferenceColumns()).devices
    assert healthy.drift_reference.stuck is None


def test_reference_columns_are_read_through_their_own_wires() -> None:
    wires = Wires(word_line=2.0, bit_line=4.0, sense=50.0)
    device = dataclasses.replace(joshi_2020(), read_noise=None)
    hardware = Hardware(cell=DifferentialPair(device=device), rows=48, columns=8, wires=wires)
    torch.manual_seed(0)
    chip = age(program(pg.convert(nn.Linear(64, 12), hardware), seed=0), seconds=YEARS)
    devices = compensate(chip, ReferenceColumns(count=3), seed=0).devices
    tracked, sums = devices.drift_reference, []
    for rows in (slice(0, 48), slice(48, 64)):
        planes = tracked.present(devices.clock)[:, :, rows].double().view(2, 2, 3, -1)
        sums.append((wires.effective(planes.transpose(2, 3)).sum((2, 3)) / device.g_max / 3).diff(dim=0)[0].neg())
    expected = tracked.first / torch.stack(sums).float()
    gain = devices.present_gain(None)
    assert torch.allclose(gain[:, [0, 8]], expected, rtol=1e-4)
    ideal = tracked.cell.weight(tracked.present(devices.clock))
    assert float(sums[0][0] / ideal[:3, :48].sum() * 3) < 0.99  # the wires matter


@pytest.mark.parametrize(
    "part", [{"wires": DurationCodedDrop()}, {"integrator": Integrator(full_input=1.0), "dac": None}]
)
def test_reference_columns_that_are_not_modelled_are_refused(part: dict[str, Any]) -> None:
    chip = program(pg.convert(nn.Linear(8, 4), dataclasses.replace(pg.presets.ideal_inference(), **part)), seed=0)
    with pytest.raises(ValueError, match=f"has {next(iter(part))} = .* is not modelled; correct the drift with 'tile'"):
        compensate(chip, ReferenceColumns())


def test_compensations_replace_each_other_and_two_at_once_are_refused() -> None:
    chip, x = aged("linear")
    tracked = compensate(chip, ReferenceColumns(), seed=3)
    assert torch.equal(answers(compensate(tracked, "tile", seed=4), x), answers(compensate(chip, "tile", seed=4), x))
    with pytest.raises(ValueError, match="each correct the mean drift"):
        compensate(chip, ("tile", SlopeCorrection()))
    with pytest.raises(ValueError, match="at least one"):
        compensate(chip, ())


def test_percentile_ranges_are_those_of_the_inputs() -> None:
    chip, x = aged("linear")
    better = compensate(chip, PercentileRanges([x], percentile=90.0), seed=0)
    rank = round(0.9 * x.numel())
    assert better[0].input_range.item() == pytest.approx(float(x.abs().flatten().kthvalue(rank).values))
    assert better[3].input_range.item() != chip[3].input_range.item()
    fixed = pg.presets.ideal_inference()
    with pytest.raises(ValueError, match="no range that can be set"):
        compensate(program(pg.convert(nn.Linear(4, 2), fixed), seed=0), PercentileRanges([torch.randn(3, 4)]))


def test_costs_in_reads() -> None:
    chip, x = aged("linear")  # 24 x 12 on 3 x 3 tiles, 12 x 5 on 2 x 2 tiles
    assert GlobalDrift().reads(chip) == 24 * 3 + 12 * 2
    assert SlopeCorrection().reads(chip) == ReferenceColumns().reads(chip) == 0
    assert AdaBS([x] * 40).reads(chip) == 2 * 64 * (9 + 4)
    images, y = aged("convolution")  # two groups share tiles or not; 16 positions of 16 images
    assert AdaBS([y]).reads(images) % 16 == 0


def test_adabs_measures_with_a_part_of_the_data() -> None:
    chip, x = aged("linear")
    assert AdaBS([x] * 41).count == 3
    assert AdaBS([x] * 3).count == 1
    parts = [x + i for i in range(20)]
    torch.manual_seed(0)
    one = compensate(chip, AdaBS(parts), seed=0)[1].running_mean
    torch.manual_seed(0)
    other = pg.inference.reestimate_batchnorm(chip, parts, 1)[1].running_mean
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda x: ReferenceColumns(count=0), ValueError, "count = 0"),
        (lambda x: AdaBS([]), ValueError, "no batch"),
        (lambda x: AdaBS(iter([x])), ValueError, "empty after one pass"),
        (lambda x: AdaBS([x], fraction=0.0), ValueError, "fraction = 0"),
        (lambda x: AdaBS(7), TypeError, "loader"),
        (lambda x: PercentileRanges([x], percentile=101.0), ValueError, "percentile = 101"),
        (lambda x: SlopeCorrection(exponent=math.nan), ValueError, "exponent = nan"),
        (lambda x: GlobalDrift(per="row"), ValueError, "per = 'row'"),
        (lambda x: SlopeCorrection, TypeError, "must be one of"),
        (lambda x: "row", ValueError, "compensation = 'row'"),
    ],
)
def test_wrong_arguments(make: Callable[[Tensor], Any], error: type[Exception], match: str) -> None:
    chip, x = aged("tied")
    with pytest.raises(error, match=match):
        compensate(chip, make(x))


def test_a_failed_compensation_leaves_the_chip_as_it_was() -> None:
    chip, x = aged("linear")
    before, state = answers(chip, x), {k: v.clone() for k, v in chip.state_dict().items()}
    with pytest.raises(ValueError, match="must be in_features"):
        compensate(chip, ("tile", AdaBS([torch.randn(4, 3), torch.randn(4, 24)], fraction=1.0)))
    with pytest.raises(ValueError, match="no batch norm"):
        compensate(program(pg.convert(nn.Linear(4, 2), pg.presets.ideal_inference())), AdaBS([torch.randn(4, 4)]))
    assert torch.equal(answers(chip, x), before)
    assert all(torch.equal(v, state[k]) for k, v in chip.state_dict().items())


@pytest.mark.parametrize("how", ["slope", "columns", "adabs", "both", "ranges"])
def test_accuracy_over_time_takes_them(how: str) -> None:
    torch.manual_seed(0)
    net, x = linear()
    part = MAKE[how](x)
    options: dict[str, Any] = {"chips": 2, "progress": False, "compensation": part}
    report = accuracy_over_time(net, lambda chip: float(chip(x).detach().std()), (1.0, YEARS), **options)
    again = accuracy_over_time(net, lambda chip: float(chip(x).detach().std()), (1.0, YEARS), **options)
    assert (report.values == again.values).all()
    assert "tensor" not in str(report)


def test_one_of_the_users_own() -> None:
    class Halved(Compensation):
        def apply(self, chip: nn.Module, seeds: Any) -> None:
            chip[3].bias.data.mul_(0.5)

        def reads(self, chip: nn.Module) -> int:
            return 0

    chip, _ = aged("linear")
    assert torch.equal(compensate(chip, Halved())[3].bias, chip[3].bias / 2)
