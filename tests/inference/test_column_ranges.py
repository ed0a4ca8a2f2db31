"""Ranges of columns: the law of saturation, the error they save, and every kind of layer and converter."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.conversion import register_counterpart
from phasegrad.crossbar import DurationCodedDrop, Hardware, Integrator, Wires
from phasegrad.crossbar.converters import Adc, BitSerialDac, CalibratedRange, Dac, FixedRange, FullScaleRange, SarAdc
from phasegrad.inference import ColumnRanges, GlobalDrift, PercentileRanges, age, compensate, program

NARROW = Adc(bits=8, range=FixedRange(value=2.0))
SLICES = pg.cells.DifferentialSlices(device=pg.devices.ideal_device(), slices=2)
SIXES = Dac(bits=12, range=FixedRange(value=6.0))


def hardware(**changes: Any) -> Hardware:
    """Exact devices, so that only converters matter."""
    return dataclasses.replace(pg.presets.ideal_inference(rows=64), **({"dac": SIXES, "adc": NARROW} | changes))


def chip_of(net: nn.Module, changes: dict[str, Any] | None = None) -> nn.Module:
    with register_counterpart(nn.Embedding, pg.nn.AnalogEmbedding.from_digital):
        return program(pg.convert(net, hardware(**(changes or {}))), seed=0)


def normal_columns(columns: int = 48) -> tuple[nn.Linear, Tensor]:
    """A layer whose outputs are normal and nearly independent, each column of another size; normal inputs."""
    torch.manual_seed(0)
    net = nn.Linear(64, columns, bias=False)
    net.weight.data = torch.randn(columns, 64) * torch.logspace(-1, 1, columns).unsqueeze(1)
    return net, torch.randn(4000, 64)


@pytest.mark.parametrize("deviations", [1.0, 2.0, 3.0])
def test_outputs_saturate_as_often_as_predicted(deviations: float) -> None:
    net, x = normal_columns()
    chip = compensate(chip_of(net), ColumnRanges([x[:2000]], deviations, batches=1), seed=0)
    y, full = chip(x[2000:]).detach(), chip.devices.column_range * chip.devices.scale * 6.0
    found = float((y.abs() >= full * (1 - 1e-4)).float().mean())
    # The mean of n outputs has a size of sqrt(2 / pi / n) sd, and the largest code begins half a step below the end.
    last = (deviations + math.sqrt(2.0 / math.pi / 2000)) * (1.0 - 0.5 / 127.0)
    law, density = math.erfc(last / math.sqrt(2.0)), math.exp(-(last**2) / 2.0) / math.sqrt(2.0 * math.pi)
    # The sd of a column is known to 1 / sqrt(2 n). Squares of two columns correlate by 1 / 64, so 48 count as 48 / 1.7.
    n = 2000 * 48 / (1.0 + 47 / 64)
    sd = math.hypot(math.sqrt(law / n), 2.0 * last * density / math.sqrt(2.0 * n))
    assert found == pytest.approx(law, abs=4.0 * sd)


def test_ranges_are_the_mean_plus_deviations_of_the_outputs() -> None:
    torch.manual_seed(0)
    net = nn.Linear(96, 10, bias=False)  # two row tiles
    x = torch.rand(500, 96) * 3.0
    chip = compensate(chip_of(net), ColumnRanges([x], 2.5, batches=1), seed=0)
    for t, rows in enumerate((slice(0, 64), slice(64, 96))):
        y = x[:, rows] @ net.weight[:, rows].t()
        expected = (y.mean(0).abs() + 2.5 * y.std(0, correction=0)) / (net.weight[:, rows].abs().amax(1) * 6.0)
        # The weights are read with a resolution of 2 / 127 of the largest one, whose errors add up over rows.
        step = 2.0 / 127.0 / math.sqrt(12.0) * float(x.square().sum(1).mean().sqrt()) / 6.0
        assert torch.allclose(chip.devices.column_range[t], expected.detach(), rtol=0.02, atol=4.0 * step)


def test_the_error_of_skewed_columns_falls() -> None:
    """Some columns have a mean beyond the range of the layer, others use a quarter of it."""
    torch.manual_seed(0)
    net = nn.Linear(64, 16, bias=False)
    net.weight.data[:8] = net.weight.data[:8].abs()
    net.weight.data[8:, 4:] = 0.01 * net.weight.data[8:, 4:]
    x = torch.rand(1000, 64) * 6.0
    chip, y = chip_of(net, {"adc": Adc(bits=8, range=FixedRange(value=8.0))}), net(x).detach()
    better = compensate(chip, ColumnRanges([x], batches=1), seed=0)

    def error(of: nn.Module) -> Tensor:
        return (of(x).detach() - y).square().mean(0).sqrt()

    before, after = error(chip), error(better)
    assert float((after / before)[:8].max()) < 0.1  # the end of the range no longer cuts the outputs off
    step = better.devices.column_range[0] / 127.0 * better.devices.scale[0] * 6.0
    assert torch.allclose(after, step / math.sqrt(12.0), rtol=0.15)  # nothing remains but the resolution
    assert float((after / before)[8:].max()) < 0.5  # finer steps


def test_noise_does_not_depend_on_the_range() -> None:
    net, x = normal_columns(columns=4)
    noisy = {"output_noise": 0.05, "adc": Adc(bits=12, range=FixedRange(value=8.0))}
    chip = chip_of(net, noisy)
    better = compensate(chip, ColumnRanges([x], 6.0, batches=1), seed=0)
    error = (better(x) - net(x)).detach().std(0) / (better.devices.scale[0] * 6.0)
    assert torch.allclose(error, torch.full((4,), 0.05), rtol=4.0 / math.sqrt(2 * 4000) + 0.005)


def test_reads_are_those_of_the_rows_and_of_the_batches() -> None:
    chip = chip_of(nn.Sequential(nn.Linear(100, 8), nn.Linear(8, 3)))
    part = ColumnRanges([torch.randn(10, 100)] * 40)
    assert part.reads(chip) == GlobalDrift().reads(chip) + 2 * 10 * (2 + 1)  # 5 % of the batches, three tiles


def test_ranges_follow_the_age_only_when_they_are_set_again() -> None:
    net, x = normal_columns()
    aged = program(pg.convert(net, dataclasses.replace(pg.presets.pcm_inference(), dac=SIXES, adc=NARROW)), seed=0)
    young = compensate(aged, ColumnRanges([x], batches=1), seed=0)
    old = age(young, seconds=1.6e8)
    assert torch.equal(old.devices.column_range, young.devices.column_range)
    again = compensate(old, ColumnRanges([x], batches=1), seed=0)
    shrunk = float((again.devices.column_range / young.devices.column_range).mean())
    sums = [c.devices.mean_tile_weights(torch.float32).weight.abs().sum().item() for c in (young, old)]
    assert shrunk == pytest.approx(sums[1] / sums[0], rel=0.1)
    assert shrunk < 0.7


def test_calibration_reads_use_the_range_of_the_layer() -> None:
    net, x = normal_columns()
    chip = chip_of(net)
    narrow = compensate(chip, ColumnRanges([0.01 * x], batches=1), seed=0)
    gain = compensate(narrow, "column", seed=3).devices.gain
    assert torch.equal(gain, compensate(chip, "column", seed=3).devices.gain)


def test_input_ranges_that_are_set_later_keep_the_ranges_of_columns() -> None:
    torch.manual_seed(0)
    net, x = nn.Linear(64, 8), torch.randn(200, 64)
    analog = pg.convert(net, dataclasses.replace(pg.presets.pcm_inference(), rows=64))
    pg.hwa.calibrate(analog, [x], recipe=None)
    chip = program(analog, seed=0)
    columns, inputs = ColumnRanges([x], batches=1), PercentileRanges([x], 90.0, batches=1)
    first = compensate(chip, columns, seed=0)
    both = compensate(first, inputs, seed=0)
    ends = [c.devices.column_range * c.input_range for c in (first, both)]
    assert both.input_range != first.input_range
    assert torch.allclose(*ends)


class Cross(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x[:, :4], 10.0 * x, 0.1 * x, need_weights=False)[0]


def test_outputs_that_are_computed_from_different_inputs_have_their_own_ranges() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 8, 16)
    chip = chip_of(Cross(), {"dac": Dac(bits=12, range=FixedRange(value=40.0))})
    better = compensate(chip, ColumnRanges([x], batches=1), seed=0)
    projection = next(m for m in better.modules() if getattr(m, "out_features", 0) == 48)
    query, key, value = projection.devices.column_range[0].view(3, 16).mean(1).tolist()
    assert key / query == pytest.approx(10.0, rel=0.2)
    assert value / query == pytest.approx(0.1, rel=0.5)  # the resolution of the weights that are read back


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 16), nn.Linear(16, 16)
        self.last.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(5.0 * self.first(x))


class LanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(7, 6), nn.Linear(6, 7, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tokens(x))


NETS: dict[str, tuple[Any, tuple[int, ...], dict[str, Any]]] = {
    "tiles": (lambda: nn.Linear(150, 9), (20, 150), {}),
    "groups": (lambda: nn.Conv2d(8, 12, 3, groups=4, padding=1), (5, 8, 6, 6), {"rows": 10}),
    "transposed": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2), (5, 4, 7), {}),
    "tied": (Tied, (20, 16), {}),
    "lstm": (lambda: nn.Sequential(nn.LSTM(6, 5, batch_first=True)), (8, 4, 6), {}),
    "embedding": (lambda: nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 4)), (), {}),
    "language model": (LanguageModel, (), {}),
    "slices": (lambda: nn.Linear(20, 6), (20, 20), {"cell": SLICES}),
    "bits": (lambda: nn.Linear(20, 6), (20, 20), {"dac": BitSerialDac(bits=4, range=FixedRange(value=4.0))}),
    "sar": (lambda: nn.Linear(150, 6), (20, 150), {"adc": SarAdc(range=FixedRange(value=3.0), offset_mismatch=0.5)}),
    "drop": (lambda: nn.Linear(20, 6), (20, 20), {"wires": DurationCodedDrop()}),
    "integrator": (lambda: nn.Linear(20, 6), (20, 20), {"integrator": Integrator(saturation=20.0)}),
    "wires": (lambda: nn.Linear(20, 6), (20, 20), {"wires": Wires(word_line=1.0, bit_line=1.0)}),
    "full scale": (lambda: nn.Linear(20, 6), (20, 20), {"adc": Adc(range=FullScaleRange())}),
    "noise": (lambda: nn.Conv1d(8, 6, 3), (5, 8, 9), {"output_noise": 0.02, "read_noise": 0.02}),
    "no dac": (lambda: nn.Conv1d(8, 6, 3), (5, 8, 9), {"dac": None}),
    "double": (lambda: nn.Linear(20, 6).double(), (20, 20), {}),
    "bfloat16": (lambda: nn.Linear(20, 6).bfloat16(), (20, 20), {}),
}  # fmt: skip


def case(kind: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """A chip, the same chip with ranges, and an input."""
    torch.manual_seed(0)
    make, shape, changes = NETS[kind]
    net = make()
    x = torch.randn(shape).to(next(net.parameters()).dtype) if shape else torch.arange(7).repeat(5)
    chip = chip_of(net, changes)
    return chip, compensate(chip, ColumnRanges([x], batches=1), seed=1), x


def out(chip: nn.Module, x: Tensor, seed: int = 4) -> Tensor:
    torch.manual_seed(seed)
    with torch.no_grad():
        y = chip(x)
    return y if isinstance(y, Tensor) else y[0]


@pytest.mark.parametrize("kind", NETS)
def test_every_kind_of_chip_in_copies_files_and_states(kind: str) -> None:
    chip, better, x = case(kind)
    found = out(better, x)
    assert found.isfinite().all()
    assert not torch.equal(found, out(chip, x))
    file = io.BytesIO()
    torch.save(better, file)
    file.seek(0)
    loaded = copy.deepcopy(chip)
    loaded.load_state_dict(better.state_dict())
    for other in (copy.deepcopy(better), torch.load(file, weights_only=False), loaded):
        assert torch.equal(out(other, x), found)
    loaded.load_state_dict(chip.state_dict())
    assert torch.equal(out(loaded, x), out(chip, x))
    quiet = pg.inference.noiseless(better)
    assert torch.equal(out(quiet, x), out(quiet, x, seed=5))
    if chip_is_exact(kind):
        assert torch.equal(out(quiet, x), found)


def chip_is_exact(kind: str) -> bool:
    """Whether nothing is drawn in a product."""
    return kind != "noise"


def test_embeddings_whose_devices_a_linear_layer_shares_are_read_as_before() -> None:
    chip, better, x = case("language model")
    assert better.head.devices is better.tokens.devices
    assert better.head.devices.column_range.shape == (1, 7)
    assert torch.equal(out(better.tokens, x), out(chip.tokens, x))
    assert ColumnRanges([x], batches=1).reads(chip) == 6 + len(x) * 2  # rows of one tile; tokens, and their products


def test_tied_layers_share_the_range_that_suits_both() -> None:
    chip, better, x = case("tied")
    hidden = 5.0 * chip.first(x)
    parts = [compensate(chip.first, ColumnRanges([i], batches=1), seed=1).devices.column_range for i in (x, hidden)]
    both = better.first.devices.column_range
    assert better.last.devices is better.first.devices
    assert bool((both <= torch.maximum(*parts) * 1.05).all())
    assert bool((both >= torch.minimum(*parts) * 0.95).all())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"adc": None}, r"has no ADC whose range could be set.*adc=Adc"),
        ({"adc": NARROW, "pulses": pg.crossbar.Pulses(), "scale": 0.5}, r"is trained in the memory.*pulses=None"),
    ],
)
def test_chips_without_such_ranges_are_refused(changes: dict[str, Any], match: str) -> None:
    if "pulses" in changes:
        device = dataclasses.replace(pg.devices.nandakumar_2018_device())
        changes = changes | {"cell": pg.cells.DifferentialPair(device=device, refresh=5, reach=10.5e-6)}
        chip: nn.Module = pg.convert(nn.Linear(4, 3), hardware(**changes))
    else:
        chip = chip_of(nn.Linear(4, 3), changes)
    with pytest.raises(ValueError, match=match):
        compensate(chip, ColumnRanges([torch.randn(5, 4)]))


def test_wrong_arguments_and_states() -> None:
    with pytest.raises(ValueError, match="deviations = 0"):
        ColumnRanges([torch.zeros(1)], 0.0)
    with pytest.raises(ValueError, match="no batch"):
        ColumnRanges([])
    chip, better, x = case("tiles")
    before = out(better, x)
    for damage, match in ((torch.zeros(3, 9), "must be positive"), (torch.ones(2, 9), "has shape")):
        state = better.state_dict() | {"devices.column_range": damage}
        with pytest.raises((ValueError, RuntimeError), match=match):
            better.load_state_dict(state)
    with pytest.raises(ValueError, match="must be in_features"):
        compensate(better, ColumnRanges([torch.randn(4, 3)]))
    assert torch.equal(out(better, x), before)
    assert chip.devices.column_range is None


def test_columns_without_outputs_keep_their_ranges() -> None:
    chip, better, x = case("tiles")
    before = better.devices.column_range
    assert torch.equal(compensate(better, ColumnRanges([0.0 * x], batches=1)).devices.column_range, before)
    assert torch.equal(compensate(better, ColumnRanges([x[:0]], batches=1)).devices.column_range, before)
    full = torch.full_like(before, 2.0)
    assert torch.equal(compensate(chip, ColumnRanges([0.0 * x], batches=1)).devices.column_range, full)


def test_a_single_row_has_the_law_of_many() -> None:
    torch.manual_seed(0)
    analog = pg.convert(nn.Linear(64, 8), dataclasses.replace(pg.presets.pcm_inference(), dac=SIXES, adc=NARROW))
    x = torch.randn(300, 64)
    chip = compensate(program(analog, seed=0), ColumnRanges([x], batches=1), seed=0)
    one = x[:1]
    with torch.no_grad():
        single = torch.cat([chip(one) for _ in range(400)])
        many = torch.cat([chip(one.expand(2, -1))[:1] for _ in range(400)])
    se = (single.var(0) / 400 + many.var(0) / 400).sqrt()
    assert bool(((single.mean(0) - many.mean(0)).abs() < 4.5 * se).all())
    assert torch.allclose(single.std(0), many.std(0), rtol=4.5 * math.sqrt(2.0 / (2 * 399)))


def test_programming_again_and_calibrated_ranges() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 20)
    analog = pg.convert(nn.Linear(20, 6), hardware(adc=Adc(range=CalibratedRange())))
    pg.hwa.calibrate(analog, [x], recipe=None)
    better = compensate(program(analog, seed=0), ColumnRanges([x], batches=1), seed=0)
    fresh = pg.inference.refresh(better, analog, every=10.0, until=10.0, seed=0).chip
    assert better.devices.column_range is not None
    assert fresh.devices.column_range is None  # as its gain, which was that of other conductances
